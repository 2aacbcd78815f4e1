// Pictures and jobs: what was added here, what the server has, and how the two come together.

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

let turns = 0;

/** A picture that was added here, a job of the server, or, once it is sent, both. */
class Item {
  constructor(name, file, at = Date.now()) {
    this.name = name;
    this.file = file;
    this.at = at;
    /** What was added first is sent first. */
    this.turn = ++turns;
    /** new, held (waits to be sent), sending; then the states of a job: waiting, running, done, failed, cancelled. */
    this.state = "new";
    this.job = null;
    this.order = null;
    this.error = null;
    this.sent = 0;
    /** Captions that were changed, by the index of their region. */
    this.edits = new Map();
  }

  get isActive() {
    return this.state === "waiting" || this.state === "running";
  }

  get isGoing() {
    return this.isActive || this.state === "held" || this.state === "sending";
  }

  get isCaptions() {
    return (this.job?.kind ?? this.order?.kind) === "captions";
  }

  /** A promise that is made once, and again only if it was let go or had failed. */
  once(name, task) {
    this[name] ??= task().catch((error) => {
      this[name] = undefined;
      throw error;
    });
    return this[name];
  }

  /** The picture as it came: its blob from here or from the server. */
  input() {
    return this.once("inputTask", async () => {
      this.file ??= (await api.file(this.job.id, "input")).blob;
      return this.file;
    });
  }

  /** The picture as it came, as an element; null if the browser cannot show its kind. */
  before() {
    return this.once("beforeTask", async () => {
      const image = await this.shown(await this.input(), "The picture before");
      if (image) {
        this.width = image.naturalWidth;
        this.height = image.naturalHeight;
        this.draw(image);
      }
      return image;
    });
  }

  /** What came out: its blob and name, and an element or null as above. */
  result() {
    return this.once("resultTask", async () => {
      const { blob, name } = await api.file(this.job.id, "result");
      const url = URL.createObjectURL(blob);
      (this.urls ??= []).push(url);
      const image = await picture(url, `The picture after: ${this.name}, enlarged`);
      if (image && !this.thumb) this.draw(image);
      return { blob, name: name ?? this.name, url, image };
    });
  }

  /** The newest picture of the unfinished result. */
  async preview() {
    const { blob } = await api.file(this.job.id, "preview");
    const image = await this.shown(blob, `Preview of ${this.name}`, true);
    if (image && !this.thumb) this.draw(image);
    return image;
  }

  captions() {
    return this.once("captionsTask", () => api.json(`/v1/jobs/${this.job.id}/captions`));
  }

  async shown(blob, alt, isPreview = false) {
    const url = URL.createObjectURL(blob);
    const image = await picture(url, alt, isPreview);
    // A preview that has been decoded needs its address no more.
    if (image && !isPreview) (this.urls ??= []).push(url); else URL.revokeObjectURL(url);
    return image;
  }

  /** The small picture of the strip, and whether anything in it can be seen through. */
  draw(image) {
    const canvas = make("canvas", { width: 168, height: 128 });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const scale = Math.max(168 / image.naturalWidth, 128 / image.naturalHeight);
    const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (168 - width) / 2, (128 - height) / 2, width, height);
    const { data } = context.getImageData(0, 0, 168, 128);
    this.alpha = false;
    for (let at = 3; at < data.length && !this.alpha; at += 4) this.alpha = data[at] < 255;
    this.thumb = canvas;
  }

  /** Lets go of large pictures; they come again when the item is looked at. */
  release() {
    for (const url of this.urls ?? []) URL.revokeObjectURL(url);
    this.urls = [];
    this.beforeTask = this.resultTask = undefined;
    if (this.job && !(this.file instanceof File)) this.file = this.inputTask = undefined;
  }
}

class Items {
  constructor() {
    this.all = [];
    this.chosen = null;
    this.recent = [];
    /** Called when an item has changed; `what` says more: "list", "preview", "captions", or nothing. */
    this.onChange = () => {};
  }

  add(item) {
    const at = this.all.findIndex((other) => other.at < item.at);
    this.all.splice(at < 0 ? this.all.length : at, 0, item);
    this.onChange(item, "list");
  }

  drop(item) {
    const at = this.all.indexOf(item);
    if (at < 0) return;
    this.all.splice(at, 1);
    item.release();
    if (this.chosen === item) this.choose(this.all[at] ?? this.all[at - 1] ?? null);
    this.onChange(item, "list");
  }

  choose(item) {
    this.chosen = item;
    this.following?.abort();
    if (item) {
      // The last three that were looked at stay ready.
      this.recent = [item, ...this.recent.filter((other) => other !== item)];
      for (const other of this.recent.splice(3)) other.release();
      this.follow(item);
    }
    this.onChange(item, "chosen");
  }

  /** Takes what the server says of a job. */
  take(item, job) {
    const hasEnded = item.job && !item.isActive && item.job.id === job.id;
    // An answer that was on its way while the job ended is of the past.
    if (hasEnded && (job.state === "waiting" || job.state === "running")) return;
    const former = item.state;
    item.job = job;
    item.state = job.state;
    item.error = job.error;
    item.name = job.name || item.name;
    if (former !== item.state && item === this.chosen && item.isActive && !this.isFollowed(item)) this.follow(item);
    this.onChange(item, former === item.state ? "job" : "state");
  }

  /** Asks for all jobs, now and again: often while one runs. */
  async refresh() {
    clearTimeout(this.timer);
    const begun = performance.now();
    try {
      const { jobs } = await api.json("/v1/jobs");
      const isSending = this.all.some((item) => item.state === "sending");
      for (const job of jobs) {
        const item = this.all.find((item) => item.job?.id === job.id);
        if (item) this.take(item, job);
        // While one is sent, an unknown job may be just that one.
        else if (!isSending) this.meet(job);
      }
      const ids = new Set(jobs.map((job) => job.id));
      for (const item of this.all.filter((item) => item.job && !ids.has(item.job.id) && !(item.since > begun))) this.drop(item);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.kind === "unauthorized") return;
    } finally {
      const isBusy = this.all.some((item) => item.isGoing) || !api.reaches;
      this.timer = setTimeout(() => this.refresh(), (isBusy ? 2000 : 15000) * (document.hidden ? 4 : 1));
    }
  }

  /** A job that was not begun on this page. */
  meet(job) {
    const item = new Item(job.name, null, job.created * 1000);
    item.job = job;
    item.state = job.state;
    item.error = job.error;
    this.add(item);
  }

  isFollowed(item) {
    return this.followed === item && this.following && !this.following.signal.aborted;
  }

  /** Follows the events of one job; the browser has few connections for one server, so it is the one that is looked at. */
  async follow(item) {
    if (!item.isActive) return;
    this.following?.abort();
    const { signal } = this.following = new AbortController();
    this.followed = item;
    for (let wait = 1; item.isActive && !signal.aborted; wait = Math.min(wait * 2, 5)) {
      try {
        for await (const { event, data } of api.events(item.job.id, signal)) {
          wait = 1;
          this.event(item, event, data);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error.kind === "not_found" || error.kind === "unauthorized") break;
        this.onChange(item, "job");
      }
      if (item.isActive) await pause(wait);
    }
    if (this.followed === item) this.followed = null;
    if (item.isActive && !signal.aborted) this.refresh();
  }

  event(item, event, data) {
    if (event === "job") return this.take(item, data);
    if (event === "note" && !item.job.notes.includes(data.text)) item.job.notes.push(data.text);
    if (event === "progress") Object.assign(item.job, data);
    if (event === "preview") item.job.has_preview = true;
    if (event === "captions") item.job.has_captions = true;
    this.onChange(item, event);
  }

  /** Sends items in turn; with what they were ordered with. */
  start(items, order) {
    for (const item of items) {
      item.order = order;
      item.error = null;
      item.state = "held";
      this.onChange(item, "state");
    }
    return this.pump();
  }

  async pump() {
    if (this.isPumping) return;
    this.isPumping = true;
    const next = () => this.all.filter((item) => item.state === "held").sort((one, other) => one.turn - other.turn)[0];
    for (let item = next(); item; item = next()) {
      const wait = await this.send(item);
      if (wait) await pause(wait);
    }
    this.isPumping = false;
  }

  /** Sends one; returns the seconds to wait if it has to be sent again. */
  async send(item) {
    item.state = "sending";
    item.sent = 0;
    item.stop = new AbortController();
    this.onChange(item, "state");
    const { settings, model, output, kind, captions, mask } = item.order;
    const form = new FormData();
    form.append("name", item.name);
    form.append("kind", kind ?? "upscale");
    form.append("settings", JSON.stringify(settings));
    if (model) form.append("model", model);
    if (output && kind !== "captions") form.append("output", JSON.stringify(output));
    if (captions) form.append("captions", captions);
    if (mask && kind !== "captions") form.append("mask", mask, mask.name);
    form.append("picture", await item.input(), item.name);
    try {
      const job = await api.send(form, (share) => {
        item.sent = share;
        this.onChange(item, "progress");
      }, item.stop.signal);
      const twin = this.all.find((other) => other !== item && other.job?.id === job.id);
      if (twin) this.drop(twin);
      item.since = performance.now();
      item.error = null;
      this.take(item, job);
      this.refresh();
      return 0;
    } catch (error) {
      if (error.name === "AbortError") {
        item.state = "new";
      } else if (!(error instanceof Refusal)) {
        item.state = "failed";
        item.error = { kind: "input", message: "The file cannot be read any more: it was moved or changed." };
      } else {
        item.error = error;
        // What passes is waited for; what does not is told.
        item.state = ["busy", "stopping", "unreachable"].includes(error.kind) ? "held" : "failed";
      }
      this.onChange(item, "state");
      return item.state === "held" ? Math.min(error.wait ?? 3, 30) : 0;
    }
  }

  async cancel(item) {
    if (item.state === "held") {
      item.state = "new";
      item.error = null;
      this.onChange(item, "state");
    } else if (item.state === "sending") {
      item.stop.abort();
    } else {
      item.isStopping = true;
      this.onChange(item, "progress");
      try {
        const answer = await api.ask(`/v1/jobs/${item.job.id}`, { method: "DELETE" });
        if (answer.status === 202) this.take(item, await answer.json());
      } catch (error) {
        item.isStopping = false;
        throw error;
      }
    }
  }

  async remove(item) {
    if (item.job) {
      try {
        await api.ask(`/v1/jobs/${item.job.id}`, { method: "DELETE" });
      } catch (error) {
        if (error.kind !== "not_found") throw error;
      }
    }
    this.drop(item);
  }
}
