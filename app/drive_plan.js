// Planning in the tab Drive: a goal picture, the films that are considered, and how it ended.

const BEST = "#3b82f6";

const compared = () => state.branches.find((branch) => branch.name === state.compared);
const showPlan = () => {
  const begun = state.moments.length > 0, able = begun && !state.busy;
  one("[data-do=goal_end]").hidden = one("[data-do=goal_truth]").hidden = begun && !state.simulated;
  one("[data-do=goal_branch]").hidden = !compared();
  for (const name of ["end", "dream", "truth", "branch"]) one(`[data-do=goal_${name}]`).disabled = !able;
  one("[data-goal-upload]").disabled = !able;
  const plan = one("[data-do=plan]");
  plan.disabled = !able || !state.goal || plan.dataset.able !== "true";
  one("[data-do=stop]").disabled = !state.planning || state.stopping;
};
const sayPlan = (text, busy = false) => {
  const place = one("[data-planned]");
  place.hidden = !text;
  place.className = busy ? "vv-busy" : "vd-planned";
  place.textContent = text;
  if (busy) {
    const spin = document.createElement("span");
    spin.className = "vv-spin";
    place.prepend(spin);
  }
};
/** Whatever is asked or goes wrong ends a plan. */
const planEnds = () => {
  if (!state.planning) return;
  state.planning = state.stopping = false;
  sayPlan("Stopped before the plan was done.");
};
const forgetGoal = () => {
  state.goal = null;
  state.stopConsidered();
  sayPlan("");
  one(".vd-considered").hidden = true;
  paint(one("[data-goal] canvas"), null);
  one("[data-goal] figcaption").textContent = "no goal yet";
};
const stopPlan = () => {
  if (state.stopping) return;
  state.stopping = true;
  sayPlan("Stopping after this round", true);
  if (!send({ type: "stop" })) planEnds();
  showFacts();
};
const plan = () => {
  letGo();
  const replans = Number(one("[data-replans]").value);
  Object.assign(state, { planning: true, costs: [], plans: replans, seen: now() });
  one(".vd-considered").hidden = true;
  sayPlan("Dreaming the first candidates", true);
  const seed = Math.floor(Math.random() * 1e6);
  if (!ask({ type: "plan", candidates: one("[data-candidates]").value, replans, seed }, "planning")) planEnds();
  show();
};
const choose = (goal, busy = "looking at the goal") => ask({ type: "goal", ...goal }, busy);
const pickGoal = async (file) => {
  try {
    choose({ from: "upload", upload: (await squareOf(file)).split(",")[1] });
  } catch (error) {
    say("Expected a picture (PNG, JPEG, WebP ...), got a file that does not open as one.");
  }
};

const planButtons = {
  goal_end: () => choose({ from: "end" }, "the expert shows the task's end"),
  goal_dream: () => choose({ from: "step", step: state.seen }),
  goal_truth: () => choose({ from: "step", step: state.seen, true: true }),
  goal_branch: () => choose({ from: "step", step: Math.min(state.seen, compared().moments.length - 1), branch: state.compared }),
  plan,
  stop: stopPlan,
};

Object.assign(answers, {
  goal: ({ label, pictures }) => {
    state.goal = label;
    say("");
    paint(one("[data-goal] canvas"), pictures.goal[0]);
    one("[data-goal] figcaption").textContent = label;
  },
  considered: (message) => {
    const [number, most] = message.plan;
    state.costs.push(message.costs[0]);
    if (!state.stopping) {
      sayPlan(`Plan ${number} of at most ${most}, round ${message.iteration} of ${setup.iterations}: best of ` +
        `${message.candidates} costs ${message.costs[0].toFixed(2)} (${message.seconds.toFixed(1)} s)`, true);
    }
    one(".vd-considered").hidden = false;
    const places = ["best", "second", "third"];
    const films = Object.values(message.pictures).map((film, rank) => [
      `${places[rank]}: cost ${message.costs[rank].toFixed(2)}${message.proposed[rank] ? ", proposed by the policy" : ""}`, film]);
    state.stopConsidered();
    state.stopConsidered = playFilms(one("[data-films]"), films, setup.rate);
    chart(one("[data-costs]"), "Cost of the best", "by round; lower is nearer to the goal",
      [{ values: [null, ...state.costs], colour: BEST, dots: true }], state.costs.length, state.plans * setup.iterations);
  },
  planned: ({ text }) => {
    say("");
    sayPlan(text);
  },
  stopped: () => say(""),
});
