// What is drawn of an item: its card in the strip, the bar over its picture, progress, messages and regions.

const items = new Items();
const view = new View();
const regions = new Regions();
const form = new Form();
let info = null;

/** From here on the result is fetched only if someone asks for it. */
const LARGE = 300e6;
/** Kinds that a browser does not show. */
const UNSHOWN = ["tiff", "ppm", "pam", "farbfeld", "exr"];
const BADGES = { held: "…", sending: "↑", waiting: "…", failed: "!", cancelled: "–" };
const STATES = { new: "new", held: "waits to be sent", sending: "is being sent", waiting: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" };

const drawCard = (item) => {
  if (!item.card) {
    item.card = make("button", { type: "button", className: "card" });
    item.kindTag = make("span", { className: "kind" });
    item.badge = make("span", { className: "state" });
    item.gauge = make("span");
    item.gaugeBox = make("span", { className: "gauge" }, item.gauge);
    for (const part of [item.kindTag, item.badge, item.gaugeBox]) part.setAttribute("aria-hidden", "true");
    item.card.append(item.kindTag, item.badge, item.gaugeBox);
    item.card.addEventListener("click", () => items.choose(item));
    item.row = make("li", {}, item.card);
  }
  if (item.thumb && !item.card.contains(item.thumb)) {
    item.card.querySelector("canvas")?.remove();
    item.card.prepend(item.thumb);
  }
  put(item.kindTag, item.thumb ? "" : /\.([^.]{1,5})$/.exec(item.name)?.[1] ?? "");
  const running = item.state === "running";
  put(item.badge, running ? percent(item.job.share) : item.state === "done" && item.isCaptions ? "Aa" : BADGES[item.state] ?? "");
  item.gaugeBox.hidden = !running && item.state !== "sending";
  item.gauge.style.setProperty("width", `${(running ? item.job.share : item.sent) * 100}%`);
  item.card.dataset.state = item.state;
  item.card.title = item.name;
  if (items.chosen === item) item.card.setAttribute("aria-current", "true"); else item.card.removeAttribute("aria-current");
  const label = `${item.name}, ${item.isCaptions ? "captions only, " : ""}${STATES[item.state]}`;
  if (item.card.getAttribute("aria-label") !== label) item.card.setAttribute("aria-label", label);
};

const drawStrip = () => {
  get("strip").hidden = !items.all.length;
  get("clear").hidden = !items.all.some((item) => item.job && !item.isActive);
  const list = get("list");
  const focused = document.activeElement;
  items.all.forEach((item, at) => {
    drawCard(item);
    if (list.children[at] !== item.row) list.insertBefore(item.row, list.children[at] ?? null);
  });
  while (list.children.length > items.all.length) list.lastChild.remove();
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus();
};

/** Small pictures of jobs that were not begun here, one after the other. */
const drawThumbs = async () => {
  if (drawThumbs.isRunning) return;
  drawThumbs.isRunning = true;
  const next = () => items.all.slice(0, 60).find((item) => !item.thumb && !item.thumbTried && item.job?.has_preview && !item.isActive);
  for (let item = next(); item; item = next()) {
    item.thumbTried = true;
    await item.preview().catch(() => null);
    drawCard(item);
  }
  drawThumbs.isRunning = false;
};

/** The size that both layers are stretched to. */
const target = (item) => {
  const { width, height } = item.job ?? {};
  if (width && height) return { width, height };
  return { width: item.width, height: item.height };
};

const showError = (error) => {
  const { title, text, advice } = errorWords(error);
  put(get("message-title"), title);
  put(get("message-text"), text);
  put(get("message-advice"), advice);
  get("message").classList.toggle("calm", error.kind === "busy" || error.kind === "cancelled");
  get("message").hidden = false;
};

const drawBar = (item) => {
  put(get("name"), item.name);
  const { width, height, bytes, format } = item.job ?? {};
  const sizes = [];
  if (item.width) sizes.push(sizeWords(item.width, item.height));
  else if (item.job?.source_width) sizes.push(sizeWords(item.job.source_width, item.job.source_height));
  if (width && item.state !== "new" && !item.isCaptions) sizes.push(sizeWords(width, height));
  const parts = sizes.length ? [sizes.join(" → ")] : [];
  if (item.state === "done" && !item.isCaptions) parts.push([(format ?? "").toUpperCase(), bytes ? bytesWords(bytes) : ""].join(" "));
  if (item.isPreviewed) parts.push("shown as a preview: the browser cannot show this kind");
  put(get("facts"), parts.join("  ·  "));
  const hints = {
    new: "The picture stays in this browser until you start.",
    done: item.isCaptions ? "Choose a region to read its caption." : view.compared ? "Drag the border, or focus it and use the arrow keys. A double click shows the picture pixel by pixel." : "",
  };
  put(get("hint"), hints[item.state] ?? "");
};

const drawProgress = (item) => {
  get("progress").hidden = !item.isGoing;
  if (!item.isGoing) return;
  const isSending = item.state === "sending";
  const share = isSending ? item.sent : item.job?.share ?? 0;
  let doing = item.state === "held" ? "Waiting to be sent" : isSending ? "Sending the picture" : doingWords(item.job);
  if (item.isStopping) doing = "Cancelling: it ends in a moment";
  get("cancel").setAttribute("aria-disabled", Boolean(item.isStopping));
  if (!api.reaches && item.isActive) doing += " (when last heard of)";
  put(get("doing"), doing);
  const left = item.state === "running" ? leftWords(item.job.eta_s) : "";
  put(get("left"), item.state === "running" || isSending ? [percent(share), left].filter(Boolean).join("  ·  ") : "");
  get("fill").style.setProperty("transform", `scaleX(${share})`);
  get("meter").setAttribute("aria-valuenow", Math.floor(share * 100));
  get("meter").setAttribute("aria-valuetext", `${doing}, ${Math.floor(share * 100)} percent`);
  if (item.state === "running") {
    const stage = item.job.stage;
    const isNew = item.saidStage !== stage && stage;
    if (isNew) announce(`${item.name}: ${STAGES[stage] ?? stage}`, Boolean(item.saidStage));
    else if (Math.floor(share * 5) > (item.saidFifth ?? 0)) announce(`${item.name}: ${Math.floor(share * 100)} percent${left ? `, ${left}` : ""}`, true);
    item.saidStage = stage;
    item.saidFifth = Math.floor(share * 5);
  }
};

const drawRegions = async (item) => {
  const has = Boolean(item.job?.has_captions) || (item.isCaptions && item.state === "done");
  const button = get("regions");
  button.hidden = !has;
  const isOn = has && (item.showsRegions ?? (item.isCaptions && item.state === "done"));
  button.setAttribute("aria-pressed", isOn);
  regions.grid.toggleAttribute("hidden", !isOn);
  get("editor").hidden = !isOn;
  if (!isOn) return regions.show(item, null);
  try {
    const captions = await item.captions();
    if (items.chosen !== item) return;
    regions.show(item, captions);
    view.size(captions.grid.width, captions.grid.height);
    view.place();
    drawEditor(item);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    get("editor").hidden = true;
  }
};

const drawEditor = (item) => {
  const { captions } = regions;
  if (!captions) return;
  put(get("editor-title"), count(captions.regions.length, "region", "regions"));
  put(get("editor-hint"), item.isCaptions
    ? "Each region has its caption. Choose one in the picture to read it and to change it; then enlarge with them."
    : "Each region was described in words before it was repainted. Choose one in the picture to read its caption and to change it.");
  put(get("changed"), item.edits.size ? `${count(item.edits.size, "caption", "captions")} changed` : "");
  put(get("rerun"), item.isCaptions ? "Enlarge with these captions" : "Run again with these captions");
  get("rerun").hidden = item.isGoing || Boolean(item.isInputGone);
  get("rerun").classList.toggle("primary", item.isCaptions || item.edits.size > 0);
  get("rerun").disabled = !item.isCaptions && !item.edits.size;
};
