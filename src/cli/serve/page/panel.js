// The panel: the settings of what is new with its plan, and the facts of a job.

const drawTable = (item) => {
  const { job } = item;
  const rows = [["State", STATES[item.state]]];
  if (job) {
    if (job.source_width) rows.push(["Input", sizeWords(job.source_width, job.source_height)]);
    if (job.width && !item.isCaptions) rows.push(["Output", sizeWords(job.width, job.height)]);
    if (job.bytes && !item.isCaptions) rows.push(["File", `${job.format.toUpperCase()}, ${bytesWords(job.bytes)}`]);
    if (job.seconds !== null) rows.push(["Time", secondsWords(job.seconds)]);
    if (job.model) rows.push(["Model", job.model]);
    rows.push(["Sent", new Date(job.created * 1000).toLocaleString()]);
  }
  const settings = Object.entries(job?.settings ?? item.order?.settings ?? {}).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
  get("set").hidden = !settings.length;
  for (const [id, pairs] of [["table", rows], ["settings", settings]]) {
    const text = JSON.stringify(pairs);
    if (get(id).dataset.text === text) continue;
    get(id).dataset.text = text;
    get(id).replaceChildren(...pairs.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  }
  const notes = job?.notes ?? [];
  get("noted").hidden = !notes.length;
  if (get("notes").children.length !== notes.length) get("notes").replaceChildren(...notes.map((note) => make("li", { textContent: note })));
};

const drawPanel = () => {
  const item = items.chosen;
  const isDraft = !item || item.state === "new";
  get("form").hidden = !isDraft;
  get("details").hidden = isDraft;
  if (isDraft) {
    const drafts = items.all.filter((other) => other.state === "new").length;
    put(get("start"), drafts > 1 ? `Enlarge ${drafts} pictures` : "Enlarge");
    get("only").hidden = drafts < 2;
    get("describe").hidden = get("drop-draft").hidden = !item;
    return;
  }
  const isResult = item.state === "done" && !item.isCaptions;
  const isTooLarge = isResult && item.job.bytes > LARGE && !item.wanted;
  get("load").hidden = !isTooLarge;
  if (isTooLarge) put(get("load"), `Load the picture (${bytesWords(item.job.bytes)})`);
  get("download").hidden = !isResult || isTooLarge;
  get("again").hidden = item.isGoing || Boolean(item.isInputGone);
  get("remove").hidden = item.isGoing;
  get("actions").hidden = item.isGoing;
  drawTable(item);
};

let planning = null;
/** Asks what the settings would do for the chosen picture. */
const drawPlan = () => {
  clearTimeout(drawPlan.timer);
  planning?.abort();
  const item = items.chosen;
  const say = ({ text, isRefused }) => {
    put(get("plan"), text);
    get("plan").classList.toggle("wrong", isRefused);
    get("start").disabled = get("only").disabled = isRefused;
    get("describe").disabled = isRefused;
  };
  if (!item) {
    say({ text: "Add a picture to begin.", isRefused: false });
    get("start").disabled = true;
    return;
  }
  if (item.state !== "new") return;
  const limit = info?.limits.body;
  if (limit && item.file?.size > limit) {
    return say({ text: `${item.name} has ${bytesWords(item.file.size)}, and this server takes ${bytesWords(limit)} at most.`, isRefused: true });
  }
  if (!form.form.checkValidity()) {
    const field = form.form.querySelector(":invalid:not(fieldset)");
    const name = field.labels?.[0]?.firstChild.textContent.trim() || field.getAttribute("aria-label");
    return say({ text: `${name}: ${field.validationMessage}`, isRefused: true });
  }
  if (!item.width) return say({ text: item.beforeKnown ? "The program reads the size of this kind of picture itself." : "", isRefused: false });
  drawPlan.timer = setTimeout(async () => {
    const { signal } = planning = new AbortController();
    try {
      const words = await planWords(item, form.order(), info?.limits, signal);
      if (items.chosen === item && !signal.aborted) say(words);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }, 200);
};

const drawTitle = () => {
  const running = items.all.find((item) => item.state === "running");
  document.title = running ? `${percent(running.job.share)} · ${running.name}` : "cupscale-fast";
};
