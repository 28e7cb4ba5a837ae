// Keys, buttons and files of the tab Drive: what a person does -> what is asked of the socket.

const owe = (steps, action = null) => {
  state.owed = steps;
  state.owedAction = action;
  tick();
};
const grip = () => {
  axes[axes.length - 1].value = gripper() > 0 ? -1 : 1;
  showNumbers();
  owe(GRIP_STEPS, along([]));
};
const press = (key) => {
  if (!state.held.has(key)) state.tapped.add(key);
  state.held.add(key);
  one(`[data-key="${key}"]`).classList.add("vd-pressed");
  tick();
};
const release = (key) => {
  state.held.delete(key);
  one(`[data-key="${key}"]`).classList.remove("vd-pressed");
};
const releaseAll = () => [...state.held].forEach(release);

const buttons = {
  start,
  dice: () => {
    one("[data-seed]").value = setup.fresh + Math.floor(Math.random() * 1e6);
    start();
  },
  step: () => owe(1),
  hold: () => {
    state.hold = !state.hold;
    one("[data-do=hold]").setAttribute("aria-pressed", state.hold);
    tick();
  },
  reset: () => ask({ type: "rewind", step: 0 }, ""),
  now: () => {
    state.seen = now();
    show();
  },
  rewind: () => ask({ type: "rewind", step: state.seen }, ""),
  branch: () => ask({ type: "branch", step: state.seen }, ""),
  grip,
  halt,
  what_if: () => ask({ type: "what_if", step: state.seen, action_a: chosen("[data-a]"), action_b: chosen("[data-b]") }, "dreaming A and B"),
  ...planButtons,
  uncertainty: () => ask({ type: "uncertainty", step: state.seen, action: chosen("[data-a]") }, "dreaming four seeds"),
};

const load = async (file) => {
  try {
    const buffer = await file.arrayBuffer();
    const bytes = file.name.endsWith(".npz") ? await unzip(buffer, "actions.npy") : new Uint8Array(buffer);
    if (!bytes) return void say("Expected an npz with actions in it, got one without.");
    if (bytes.length > 1e6) return void say("Expected an action file of at most 1 MB, got a larger one.");
    letGo();
    ask({ type: "replay", file: base64(bytes) }, "replaying");
  } catch (error) {
    say("Expected a file of actions, got one that does not open.");
  }
};
const pickSample = (thumb) => {
  state.sample = thumb.dataset.sample;
  every("[data-sample]").forEach((other) => other.classList.toggle("vd-picked", other === thumb));
};
const pick = async (file) => {
  try {
    const address = await squareOf(file);
    state.upload = address.split(",")[1];
    const preview = one(".vd-file img");
    preview.src = address;
    preview.hidden = false;
    start();
  } catch (error) {
    say("Expected a picture (PNG, JPEG, WebP ...), got a file that does not open as one.");
  }
};

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]"), thumb = event.target.closest("[data-sample]");
  if (button && !button.disabled) buttons[button.dataset.do]();
  if (event.detail > 0) event.target.closest("button, label")?.blur();  // clicked, not typed: Space stays the gripper's
  if (thumb) {
    pickSample(thumb);
    start();
  }
});
root.addEventListener("input", (event) => {
  const part = event.target;
  if (part.name === "vd-source") showSource();
  if (part.matches("[data-axis], [data-speed]")) showNumbers();
  // a slider that is dragged drives as it goes, but where something runs, or an earlier moment is looked at
  if (part.matches("[data-axis]") && !state.hold && !state.busy && state.seen >= now()) owe(1);
  if (part.matches("[data-errors]")) show();
  if (part.matches("[data-timeline]")) {
    state.seen = Number(part.value);
    show();
  }
});
root.addEventListener("change", (event) => {
  const [part, file] = [event.target, event.target.files?.[0]];
  if (part.matches("[data-upload]") && file) pick(file);
  if (part.matches("[data-actions]") && file) load(file);
  if (part.matches("[data-goal-upload]") && file) pickGoal(file);
  showDriven();
  if (part.matches("[data-upload], [data-actions], [data-goal-upload]")) part.value = "";  // the same file may be chosen again
});
every("[data-key]").forEach((pad) => {
  const key = Number(pad.dataset.key);
  pad.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    press(key);
  });
  ["pointerup", "pointerleave", "pointercancel"].forEach((kind) => pad.addEventListener(kind, () => release(key)));
  pad.addEventListener("contextmenu", (event) => event.preventDefault());
});
const typing = (part) => part?.matches?.("input:not([type=range]):not([type=radio]):not([type=checkbox]), select, textarea, [contenteditable]");
document.addEventListener("keydown", (event) => {
  if (!root.offsetParent || typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = setup.keys.findIndex(({ codes }) => codes.includes(event.code));
  const button = event.target.closest?.("button, a, label");
  if (event.code === "Space" && !button) {
    event.preventDefault();
    if (!event.repeat) grip();
  } else if (key >= 0 && !(event.target.matches?.("input") && event.code.startsWith("Arrow"))) {
    event.preventDefault();
    press(key);
  }
});
document.addEventListener("keyup", (event) => {
  const key = setup.keys.findIndex(({ codes }) => codes.includes(event.code));
  if (key >= 0) release(key);
});
window.addEventListener("blur", releaseAll);

showSource();
showNumbers();
showFacts();
if (one("[data-sample]")) pickSample(one("[data-sample]"));
new IntersectionObserver(([entry]) => {
  if (!entry.isIntersecting) {
    releaseAll();
    letGo();
  }
  const able = source() !== setup.upload && !one("[data-do=start]").disabled;
  if (entry.isIntersecting && able && !state.begun) start();
}).observe(root);
