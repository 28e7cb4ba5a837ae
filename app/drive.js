// The tab Drive: keys and buttons -> actions over the socket, frames back onto the canvases.
// One action is on its way at a time: the next one leaves when the last one's frame is here.

const root = element.querySelector("#vd");
const setup = JSON.parse(root.dataset.setup);
const one = (query) => root.querySelector(query);
const every = (query) => [...root.querySelectorAll(query)];
const REST = 1000 / setup.rate;
const GRIP_STEPS = 4;

const state = {
  socket: null, token: null, drive: 0, simulated: true, notes: [], upload: null, sample: null,
  moments: [], branches: [], compared: null, seen: 0, driven: "", chosen: "", chance: "",
  waiting: false, busy: "", held: new Set(), tapped: new Set(), hold: false, owed: 0, owedAction: null,
  last: 0, timer: 0, gone: false, arrivals: [], begun: false, stopFilms: () => {}, asked: null, drawn: false,
  planning: false, stopping: false, replaying: false, goal: null, costs: [], plans: 0, stopConsidered: () => {},
};
const now = () => state.moments.length - 1;

// what the panel says

const axes = every("[data-axis]");
const sliders = () => axes.map((axis) => Number(axis.value));
const speed = () => Number(one("[data-speed]").value);
const gripper = () => Number(axes[axes.length - 1].value);
const along = (keys) => {
  const move = [0, 0, 0];
  for (const key of keys) setup.keys[key].move.forEach((way, axis) => (move[axis] += way));
  return [...move.map((way) => Math.sign(way) * speed()), gripper()];
};
const chosen = (query) => {
  const value = one(query).value;
  if (value === "sliders") return sliders();
  return value === "still" ? along([]) : along([Number(value)]);
};
const source = () => one("[name=vd-source]:checked").value;
/** What Start would drive, as it is chosen now. */
const choice = () => {
  const from = { [setup.scene]: ["[data-task]", "[data-seed]"].map((query) => one(query)?.value),
    [setup.upload]: [state.upload] }[source()] ?? [state.sample];
  return JSON.stringify([one("[data-model]").value, source(), ...from]);
};
const showDriven = () => {
  const other = state.driven && state.chosen !== choice() ? " What is chosen now is driven after Start." : "";
  one("[data-driven]").textContent = state.driven && `${state.driven}.${other}`;
};
const showSource = () => every("[data-for]").forEach((part) => (part.hidden = part.dataset.for !== source()));
const showNumbers = () => {
  axes.forEach((axis) => (axis.parentNode.querySelector("output").value = (+axis.value).toFixed(1)));
  const quick = one("[data-speed]");
  quick.parentNode.querySelector("output").value = (+quick.value).toFixed(1);
  one("[data-grip]").textContent = gripper() > 0 ? "open gripper" : "close gripper";
};

// saying and showing

const say = (text, kind = "error") => {
  const boxes = state.notes.map((note) => [note, "note"]);
  if (text) boxes.unshift([text, kind]);
  if (now() > setup.far) boxes.push([`More than ${setup.far} steps: expect that errors have piled up.`, "note"]);
  one("[data-say]").replaceChildren(...boxes.map(([words, look]) => {
    const box = document.createElement("div");
    box.className = `vv-message vv-${look}`;
    box.textContent = words;
    return box;
  }));
};
const screen = (name) => one(`[data-screen=${name}]`);
const rate = () => {
  const recent = state.arrivals.filter((at) => at > performance.now() - 2000);
  state.arrivals = recent;
  return recent.length > 1 ? ((recent.length - 1) * 1000) / (recent[recent.length - 1] - recent[0]) : 0;
};

const showFacts = () => {
  const moment = state.moments[state.seen];
  const known = now() > 0 ? ` of ${now()}` : "";
  one("[data-step]").textContent = `step ${state.seen}${known}`;
  const facts = [`${(state.seen / setup.rate).toFixed(2)} s`];
  if (rate()) facts.push(`${rate().toFixed(1)} steps/s`);
  if (moment && Number.isFinite(moment.psnr)) facts.push(`PSNR ${moment.psnr.toFixed(1)} dB, SSIM ${moment.ssim.toFixed(2)}`);
  if (state.moments.slice(0, state.seen + 1).some((m) => m.fulfilled)) facts.push("the simulator says: task fulfilled");
  if (state.busy) facts.push(state.busy);
  one("[data-facts]").textContent = facts.join(" · ");
  const back = state.seen < now();
  root.dataset.back = back;
  for (const name of ["rewind", "branch", "now"]) one(`[data-do=${name}]`).disabled = !back;
  for (const name of ["what_if", "uncertainty", "step", "hold", "reset"]) {
    one(`[data-do=${name}]`).disabled = !state.moments.length;
  }
  one("[data-do=halt]").hidden = !state.replaying;
  showDriven();
  showPlan();
};

const showCharts = () => {
  const measures = [["psnr", "PSNR against the simulator", "dB by step, higher is nearer"],
    ["ssim", "SSIM against the simulator", "by step, 1 is equal"]];
  for (const [name, title, unit] of measures) {
    const place = one(`[data-chart=${name}]`);
    place.hidden = !state.simulated;
    if (!state.simulated) continue;
    const values = (moments, key) => moments.map((moment) => moment[key] ?? null);
    const lines = state.branches.map((branch) => (
      { values: values(branch.moments, name), colour: branch.colour, thin: true }));
    lines.unshift({ values: values(state.moments, `${name}_copy`), colour: "#8b94a3", dashed: true });
    lines.push({ values: values(state.moments, name), colour: "#3b82f6" });
    chart(place, title, unit, lines, state.seen);
    const legend = document.createElement("div");
    legend.className = "vv-legend";
    const entries = [["dream", "#3b82f6"], ["copying the first frame (dashed)", "#8b94a3"]];
    state.branches.forEach((branch) => entries.push([`branch ${branch.name}`, branch.colour]));
    legend.replaceChildren(...entries.map(([label, colour]) => {
      const entry = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = colour;
      entry.append(dot, label);
      return entry;
    }));
    place.append(legend);
  }
};

const show = () => {
  const moment = state.moments[state.seen];
  const timeline = one("[data-timeline]");
  timeline.max = Math.max(now(), 0);
  timeline.value = state.seen;
  showFacts();
  if (!moment) return;
  paint(screen("dream").querySelector("canvas"), moment.pictures.dream[0]);
  screen("truth").hidden = !state.simulated;
  screen("error").hidden = !state.simulated || !one("[data-errors]").checked;
  for (const name of ["truth", "error"]) {
    if (moment.pictures[name]) paint(screen(name).querySelector("canvas"), moment.pictures[name][0]);
  }
  const branch = state.branches.find((kept) => kept.name === state.compared);
  for (const name of ["branch", "branch_apart"]) screen(name).hidden = !branch;
  screen("branch_truth").hidden = !branch || !state.simulated;
  if (branch) {
    const at = Math.min(state.seen, branch.moments.length - 1), { dream, truth } = branch.moments[at].pictures;
    const shown = [["branch", `Branch ${branch.name}, step ${at}`, dream[0]], ["branch_truth", "Its simulator", truth?.[0]],
      ["branch_apart", "Difference", moment.pictures.dream[0], dream[0]]];
    for (const [name, label, ...parts] of shown) {
      screen(name).querySelector("figcaption").textContent = label;
      paint(screen(name).querySelector("canvas"), ...parts);
    }
  }
  if (!state.drawn) {  // charts once a drawn frame of the browser, however fast frames come
    state.drawn = true;
    requestAnimationFrame(() => {
      state.drawn = false;
      showCharts();
    });
  }
};

const showBranches = () => {
  one("[data-branches]").replaceChildren(...state.branches.map((branch) => {
    const chip = document.createElement("span"), look = document.createElement("button"), drop = document.createElement("button");
    chip.style.setProperty("--colour", branch.colour);
    chip.className = "vd-chip";
    look.type = drop.type = "button";
    look.textContent = `Branch ${branch.name} (${branch.moments.length - 1} steps)`;
    look.setAttribute("aria-pressed", state.compared === branch.name);
    look.onclick = () => {
      state.compared = state.compared === branch.name ? null : branch.name;
      showBranches();
      show();
    };
    drop.textContent = "×";
    drop.title = "Forget this branch";
    drop.onclick = () => send({ type: "forget", name: branch.name });
    chip.append(look, drop);
    return chip;
  }));
};

// the socket

const OVER = "The drive has ended: press Start to begin again.";
/** Sends it, after connecting again where the socket has closed; false where the drive is over. */
const send = (message) => {
  const over = state.gone && message.type !== "start";
  if (over) say(OVER);
  else if (isOpen()) state.socket.send(JSON.stringify({ drive: state.drive, ...message }));
  else connect().then((able) => able && !state.gone ? send(message) : ended());
  return !over;
};
const isOpen = () => state.socket?.readyState === WebSocket.OPEN;
/** Nothing is under way any more. */
const ended = () => {
  state.waiting = state.replaying = false;
  state.busy = "";
  planEnds();
  showFacts();
};

const ask = (message, busy) => {
  const able = send(message);
  state.busy = able ? busy : "";
  showFacts();
  return able;
};

const answers = {
  hello: ({ token, kept }) => {
    state.token = token;
    if (!state.moments.length || state.gone) return;
    state.gone = kept !== state.drive;
    if (state.gone) {
      letGo();
      every("[data-export]").forEach((link) => link.removeAttribute("href"));
      say(OVER);
    } else if (now() > 0) send({ type: "rewind", step: now() });  // a step that never arrived here has not happened
  },
  error: ({ text }) => {
    letGo();
    say(text);
  },
  started: (message) => {
    planEnds();
    forgetGoal();
    Object.assign(state, {
      drive: message.drive, gone: false, driven: `${message.title} dreams ${message.label}`, chance: message.chance,
      simulated: message.simulated, notes: message.notes, moments: [], branches: [],
      compared: null, seen: 0, owed: 0, arrivals: [],
    });
    state.stopFilms();
    one("[data-answer]").replaceChildren();
    one("[data-answered]").textContent = "";
    showBranches();
    say("");
    every("[data-export]").forEach((link) => {
      link.href = new URL(`${setup.path}/export/${state.token}.${link.dataset.export}`, document.baseURI);
      link.download = `vidvla-drive.${link.dataset.export}`;
    });
  },
  moment: (message) => {
    const following = state.seen >= now();
    state.moments.length = message.step;
    state.moments.push(message);
    if (following || !(message.replayed || message.plan || state.hold)) state.seen = message.step;
    state.arrivals.push(performance.now());
    if (message.step === setup.far + 1) say("");
    if (message.replayed && state.busy !== "stopping") {
      state.replaying = message.replayed[0] < message.replayed[1];
      state.busy = state.replaying ? `replaying ${message.replayed.join(" of ")}` : "";
    }
    show();
  },
  rewound: ({ step }) => {
    state.moments.length = step + 1;
    state.seen = step;
    say("");
    show();
  },
  branched: ({ name, step }) => {
    const free = COLOURS.find((colour) => !state.branches.some((branch) => branch.colour === colour));
    state.branches.push({ name, step, colour: free, moments: [...state.moments] });
    state.compared = name;
    showBranches();
    answers.rewound({ step });
  },
  forgotten: ({ name }) => {
    state.branches = state.branches.filter((branch) => branch.name !== name);
    showBranches();
    show();
  },
  what_if: (message) => {
    const name = (query) => one(query).selectedOptions[0].textContent;
    playAnswer([[`A: ${name("[data-a]")}`, message.pictures.a], [`B: ${name("[data-b]")}`, message.pictures.b],
      [`Difference at the end, mean ${message.mean.toFixed(1)} (bright: ${setup.tops.what_if}+ of 255)`, message.pictures.map]]);
  },
  uncertainty: (message) => {
    const films = Object.entries(message.pictures).filter(([name]) => name !== "map");
    playAnswer([...films.map(([, film], seed) => [`seed ${seed + 1}`, film]),
      [`Spread at the end, mean ${message.mean.toFixed(1)} (bright: ${setup.tops.uncertainty}+ of 255)`, message.pictures.map]],
    state.chance);
  },
};
const playAnswer = (parts, note = "") => {
  state.stopFilms();
  state.stopFilms = playFilms(one("[data-answer]"), parts, setup.rate);
  one("[data-answered]").textContent = note;
};

const receive = (message) => {
  if (message.type !== "hello") state.waiting = false;
  if (!["hello", "moment", "considered"].includes(message.type)) {  // a step may have been under way when more was asked
    state.busy = "";
    state.replaying = false;
    planEnds();
  }
  if (message.drive !== undefined && message.type !== "started" && message.drive !== state.drive) return;
  answers[message.type](message);
  showFacts();
  tick();
};

/** Resolves once the socket is open, whoever else waits for it too; false where it ends before. */
const connect = () => {
  const known = state.socket?.readyState;
  if (known !== WebSocket.OPEN && known !== WebSocket.CONNECTING) state.opening = openSocket();
  return state.opening;
};
const openSocket = () => new Promise((done) => {
  const address = new URL(setup.path, document.baseURI);
  if (state.token) address.searchParams.set("token", state.token);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  let greeted = false;
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  socket.onmessage = ({ data }) => {
    if (socket !== state.socket) return;  // another has taken over
    const message = typeof data === "string" ? JSON.parse(data) : unpack(data);
    receive(message);
    if (message.type !== "hello") return;
    greeted = true;
    done(true);
  };
  socket.onclose = () => {
    done(false);
    if (socket !== state.socket) return;
    letGo();
    const said = one("[data-say] .vv-error");
    if (greeted && !said) say("The connection was lost: the drive goes on with what you do next.");
    if (!greeted && !said) say("The server does not answer: try again in a moment.");
    ended();
  };
});

const start = async () => {
  state.begun = true;
  const message = { type: "start", source: source(), model: one("[data-model]").value };
  message.task = one("[data-task]")?.value;
  const seed = one("[data-seed]")?.value;
  message.seed = seed === "" || seed === undefined ? null : Number(seed);
  if (state.sample) message.sample = state.sample;
  if (source() === setup.upload) message.upload = state.upload ?? "";
  state.busy = "starting";
  state.chosen = choice();
  showFacts();
  if (await connect()) ask(message, "starting");
};

// driving

const wanted = () => {
  const keys = new Set([...state.held, ...state.tapped]);
  if (keys.size) return along(keys);
  if (state.owed > 0) return state.owedAction ?? sliders();
  return state.hold ? sliders() : null;
};

const halt = () => state.busy !== "stopping" && ask({ type: "stop" }, "stopping");  // asked once

/** Nothing is driven any more: not held, not owed. */
const letGo = () => {
  state.hold = false;
  state.owed = 0;
  one("[data-do=hold]").setAttribute("aria-pressed", false);
};

const tick = () => {
  clearTimeout(state.timer);
  if (!root.isConnected) return void state.socket?.close();
  const drives = state.held.size || state.tapped.size;  // whoever drives takes over
  if (drives && state.planning) return void stopPlan();
  if (drives && state.replaying) return void halt();
  if (state.waiting || state.busy || state.gone || !state.moments.length) return;
  const action = wanted();
  if (!action) return;
  if (!isOpen()) return void connect();
  const rest = state.last + REST - performance.now();  // never faster than the robot moves
  if (rest > 1) return void (state.timer = setTimeout(tick, rest));
  state.last = performance.now();
  state.waiting = true;
  state.owed = Math.max(0, state.owed - 1);
  state.tapped.clear();
  send({ type: "act", action });
};
