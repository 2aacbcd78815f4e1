// What happens: pictures come in, jobs change, buttons are pressed.

/** Loads and shows what there is of the chosen picture; every step looks whether it is still the chosen one. */
const showPicture = async () => {
  const item = items.chosen;
  if (!item) return;
  const isStill = () => items.chosen === item;
  const state = item.state;
  try {
    let unseen = "";
    const before = await item.before().catch((error) => {
      if (error.kind && error.kind !== "not_found") throw error;
      // Of a job that was cancelled the server keeps no picture.
      item.isInputGone = true;
      return null;
    });
    if (!isStill() || item.state !== state) return;
    drawCard(item);
    if (item.isInputGone) drawPanel();
    const { width, height } = target(item);
    view.layer("before", before);
    view.size(width, height);
    if (item.isActive && item.job.has_preview && !item.isCaptions) await showPreview(item);
    if (!isStill() || item.state !== state) return;
    const isResult = state === "done" && !item.isCaptions;
    if (isResult && (!(item.job.bytes > LARGE) || item.wanted)) {
      const { image } = await item.result();
      if (!isStill()) return;
      drawCard(item);
      if (image) {
        view.size(item.job.width ?? image.naturalWidth, item.job.height ?? image.naturalHeight);
        view.layer("after", image);
      } else {
        const preview = item.job.has_preview ? await item.preview().catch(() => null) : null;
        if (!isStill()) return;
        view.size(item.job.width, item.job.height);
        view.layer("after", preview);
        item.isPreviewed = Boolean(preview);
        if (!preview) unseen = "The browser cannot show this kind of picture.\nThe download has it whole.";
      }
      view.compare(Boolean(view.before && view.after));
      drawBar(item);
    } else if (!before && !view.after) {
      unseen = item.isGoing || item.state === "new" ? "The browser cannot show this kind of picture.\nThe program reads it all the same." : "";
    }
    if (isStill()) {
      get("unseen").hidden = !unseen;
      put(get("unseen"), unseen);
      drawPlan();
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (isStill()) showError(error);
  }
};

const showPreview = async (item) => {
  if (item.isLoadingPreview) {
    item.isPreviewOld = true;
    return;
  }
  item.isLoadingPreview = true;
  const image = await item.preview().catch(() => null);
  item.isLoadingPreview = false;
  if (items.chosen === item && item.isActive && image) {
    const { width, height } = target(item);
    view.size(width ?? image.naturalWidth, height ?? image.naturalHeight);
    view.layer("after", image);
    get("unseen").hidden = true;
  }
  if (item.isPreviewOld) {
    item.isPreviewOld = false;
    if (item.isActive) await showPreview(item);
  }
};

/** Everything about the chosen item, anew. */
const draw = () => {
  const item = items.chosen;
  get("empty").hidden = Boolean(item);
  get("shown").hidden = !item;
  drawPanel();
  drawPlan();
  if (!item) return;
  drawBar(item);
  drawProgress(item);
  if (item.error && item.state !== "new") showError(item.error);
  else if (item.state === "cancelled") {
    put(get("message-title"), "Cancelled");
    put(get("message-text"), "");
    put(get("message-advice"), "");
    get("message").classList.add("calm");
    get("message").hidden = false;
  } else get("message").hidden = true;
  view.paper.classList.toggle("dim", item.state === "failed" || item.state === "cancelled");
  drawRegions(item);
};

items.onChange = (item, what) => {
  if (what === "chosen") {
    view.clear();
    get("unseen").hidden = true;
    drawStrip();
    draw();
    showPicture().then(() => {
      if (item) item.beforeKnown = true;
      if (items.chosen === item && item?.state === "new") drawPlan();
    });
    return;
  }
  if (what === "list") {
    drawStrip();
    drawPanel();
    drawThumbs();
    if (!items.all.length) items.chosen === null && draw();
    return;
  }
  drawCard(item);
  drawTitle();
  if (what === "state") {
    const words = { done: item.isCaptions ? "the regions are described" : "the enlarged picture is ready", failed: Object.values(errorWords(item.error ?? { kind: "failed" })).filter(Boolean).join(". "), cancelled: "cancelled", waiting: "sent" }[item.state];
    if (words) announce(`${item.name}: ${words}`);
    drawStrip();
    if (item.state === "failed" || item.state === "done") drawThumbs();
  }
  if (item !== items.chosen) return;
  if (what === "preview") return showPreview(item);
  if (what === "captions") return drawRegions(item);
  if (what === "progress") return drawProgress(item);
  if (what === "state") {
    const hadFocus = document.activeElement;
    draw();
    showPicture();
    // What had the focus may be gone: it goes on to what comes next.
    if (hadFocus && hadFocus !== document.body && !hadFocus.checkVisibility()) {
      const next = ["cancel", "download", "rerun", "again", "start"].map(get).find((button) => button.checkVisibility() && !button.disabled);
      next?.focus({ preventScroll: true });
    }
    return;
  }
  drawBar(item);
  drawProgress(item);
  drawTable(item);
  if (item.job?.has_captions && get("regions").hidden) drawRegions(item);
};

/** Errors of what was asked for by a button are told where one looks. */
const told = (task) => async (...given) => {
  try {
    await task(...given);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    showError(error);
  }
};

const addFiles = (files) => {
  const now = Date.now();
  const added = [...files].map((file, at) => new Item(file.name || "pasted.png", file, now - at / 1000));
  for (const item of added) items.add(item);
  if (added.length) items.choose(added[0]);
  announce(added.length === 1 ? `${added[0].name} was added` : `${count(added.length, "picture was", "pictures were")} added`);
};

const start = (list, kind) => {
  const order = { ...form.order(), kind };
  items.start(list, order);
  form.masked(null);
  announce(kind === "captions" ? "The regions are being described" : list.length > 1 ? `${list.length} pictures are on their way` : `${list[0].name} is on its way`);
};

get("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const drafts = items.all.filter((item) => item.state === "new");
  if (!drafts.length) return;
  if (items.chosen?.state !== "new") items.choose(drafts[0]);
  start(drafts, "upscale");
});
get("only").addEventListener("click", () => form.form.reportValidity() && start([items.chosen], "upscale"));
get("describe").addEventListener("click", () => form.form.reportValidity() && start([items.chosen], "captions"));
get("drop-draft").addEventListener("click", () => items.drop(items.chosen));
form.onChange = drawPlan;

get("cancel").addEventListener("click", told(() => items.chosen.isStopping || items.cancel(items.chosen)));
get("load").addEventListener("click", () => {
  items.chosen.wanted = true;
  drawPanel();
  showPicture();
});
get("download").addEventListener("click", told(async () => {
  const item = items.chosen;
  const { url, name } = await item.result();
  make("a", { href: url, download: name }).click();
  item.isSaved = true;
}));

/** A new picture of the same input. */
const repeat = async (item) => {
  const blob = await item.input();
  const next = new Item(item.name, blob);
  // The blob is this item's now: it stays when large pictures are let go.
  if (!(blob instanceof File)) next.file = new File([blob], item.name, { type: blob.type });
  return next;
};

get("again").addEventListener("click", told(async () => {
  const item = items.chosen;
  if (item.job) form.fill(item.job.settings, item.job.model, item.order ? item.order.output : item.isCaptions ? null : { format: item.job.format });
  form.masked(item.order?.mask);
  if (!item.job) {
    item.state = "new";
    item.error = null;
    items.choose(item);
  } else {
    const next = await repeat(item);
    items.add(next);
    items.choose(next);
  }
  get("start").focus({ preventScroll: true });
}));

get("rerun").addEventListener("click", told(async () => {
  const item = items.chosen;
  const captions = regions.edited();
  const next = await repeat(item);
  items.add(next);
  items.choose(next);
  const output = item.order ? item.order.output : item.isCaptions ? null : { format: item.job.format };
  items.start([next], { settings: item.job.settings, model: item.job.model, output, mask: item.order?.mask ?? null, kind: "upscale", captions });
  get("cancel").focus({ preventScroll: true });
}));

/** Asks whether something may be taken away for good. */
const sure = (title, text) => new Promise((resolve) => {
  const dialog = get("ask-sure");
  put(get("sure-title"), title);
  put(get("sure-text"), text);
  dialog.returnValue = "";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  dialog.showModal();
});

get("remove").addEventListener("click", told(async () => {
  const item = items.chosen;
  if (item.state === "done" && !item.isSaved && !await sure(`Remove ${item.name}?`, "Its result has not been downloaded from this page. It is taken off the server and cannot be brought back.")) return;
  await items.remove(item);
  (items.chosen ? items.chosen.card : get("choose")).focus();
}));

get("clear").addEventListener("click", told(async () => {
  const ended = items.all.filter((item) => item.job && !item.isActive);
  if (!await sure(`Clear ${count(ended.length, "finished job", "finished jobs")}?`, "Pictures and results are taken off the server and cannot be brought back.")) return;
  // What goes next is not looked at.
  if (ended.includes(items.chosen)) items.choose(items.all.find((item) => !ended.includes(item)) ?? null);
  for (const item of ended) await items.remove(item);
  if (!items.all.length) get("choose").focus();
}));

get("regions").addEventListener("click", () => {
  items.chosen.showsRegions = get("regions").getAttribute("aria-pressed") !== "true";
  drawRegions(items.chosen);
});
regions.onEdit = () => drawEditor(items.chosen);
view.onMove = (box) => regions.move(box);
view.onClick = (x, y) => regions.click(x, y);

for (const id of ["choose", "add"]) get(id).addEventListener("click", () => get("files").click());
get("files").addEventListener("change", () => {
  addFiles(get("files").files);
  get("files").value = "";
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  addFiles(event.clipboardData.files);
});
let inside = 0;
const drag = (way) => (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  inside = Math.max(0, inside + way);
  document.body.classList.toggle("dragging", inside > 0);
};
addEventListener("dragenter", drag(1));
addEventListener("dragleave", drag(-1));
addEventListener("dragover", drag(0));
addEventListener("drop", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dragging");
  const entries = [...event.dataTransfer.items].map((entry) => ({ file: entry.getAsFile(), isFolder: entry.webkitGetAsEntry?.()?.isDirectory }));
  const files = entries.filter(({ file, isFolder }) => file && !isFolder).map(({ file }) => file);
  if (files.length) addFiles(files);
  if (files.length < entries.length) {
    put(get("trouble"), "Folders are for the command line: cupscale-fast -i FOLDER -o OTHER enlarges every picture in one.");
    setTimeout(() => api.reaches && put(get("trouble"), ""), 8000);
  }
});
addEventListener("beforeunload", (event) => {
  if (items.all.some((item) => item.state === "held" || item.state === "sending")) event.preventDefault();
});
document.addEventListener("visibilitychange", () => !document.hidden && items.refresh());

api.onReach = (reaches) => {
  put(get("trouble"), reaches ? "" : "The server does not answer. Trying again…");
  if (reaches) items.refresh();
  if (items.chosen) drawProgress(items.chosen);
};

const begin = async () => {
  api.begin();
  draw();
  for (;;) {
    try {
      info = await api.json("/v1/info");
      break;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.kind !== "unreachable") {
        const { title, text, advice } = errorWords(error);
        put(get("trouble"), [title, text, advice].filter(Boolean).join(". "));
        return;
      }
      await pause(2);
    }
  }
  put(get("machine"), `${info.models.find((model) => model.is_default)?.name ?? ""} on ${info.computes_on}`);
  form.know(info);
  await items.refresh();
  // After a reload one goes on with what runs, or sees what came last.
  if (!items.chosen && items.all.length) items.choose(items.all.find((item) => item.state === "running") ?? items.all[0]);
  draw();
};
begin();
