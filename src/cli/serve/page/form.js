// The settings of a job: from the form to the names of the command line, and back.

const OWN_STRENGTH = "0.45";
/** Fields whose name is that of their setting. */
const NUMBERS = ["steps", "overlap", "gsp", "rap", "rsp"];
const KEPT = "cupscale-settings";

class Form {
  constructor() {
    this.form = get("form");
    this.strengthIsSet = false;
    /** Called when something was changed. */
    this.onChange = () => {};
    this.listen();
  }

  /** Fills the lists by what the server has. */
  know(info) {
    this.info = info;
    const models = info.models ?? [];
    get("model-field").hidden = models.length < 2;
    const chosen = get("model").value;
    get("model").replaceChildren(...models.map(({ name, is_default: isDefault, loaded }) =>
      make("option", { value: isDefault ? "" : name, textContent: loaded ? `${name} (loaded)` : name })));
    get("model").value = chosen;
    if (get("model").selectedIndex < 0) get("model").value = "";
    const names = { png: "PNG", jpeg: "JPEG", webp: "WebP", tiff: "TIFF", ppm: "PPM", pam: "PAM", farbfeld: "farbfeld", exr: "OpenEXR" };
    const format = get("format").value;
    get("format").replaceChildren(make("option", { value: "", textContent: "As the input" }),
      ...info.formats.map((name) => make("option", { value: name, textContent: names[name] ?? name })));
    get("format").value = format;
    get("names").replaceChildren(...info.settings.map((value) => make("option", { value })));
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT));
      if (kept) this.fill(kept.settings, kept.model, kept.output);
    } catch { /* What was kept is of another version, or there is no storage. */ }
  }

  /** What a job is ordered with. */
  order() {
    const settings = {};
    const size = this.form.elements.size.value;
    if (size === "other") {
      const kind = get("size-kind").value;
      const [one, two] = [get("size-one").value.trim(), get("size-two").value.trim()];
      settings[kind] = kind === "size" ? `${one}x${two}` : Number(one);
    } else {
      settings.scale = Number(size);
    }
    if (this.strengthIsSet) settings.strength = Number(get("strength").value);
    if (get("prompt").value.trim()) settings.prompt = get("prompt").value.trim();
    const seed = get("seed").value.trim();
    // A seed has 64 bits, a number of JavaScript 53.
    if (seed) settings.seed = Number.isSafeInteger(Number(seed)) ? Number(seed) : seed;
    if (get("profile").value) settings.profile = get("profile").value;
    for (const name of NUMBERS) if (get(name).value.trim()) settings[name] = Number(get(name).value);
    for (const row of get("further").children) {
      const [name, value] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
      if (name) settings[name.replace(/^--/, "")] = value === "" || value === "true" ? true : value;
    }
    const format = get("format").value, quality = get("quality").value.trim();
    const output = format ? { format, ...(format === "jpeg" && quality ? { quality: Number(quality) } : {}) } : null;
    return { settings, model: get("model").value || null, output, mask: get("mask").files[0] ?? null };
  }

  /** A mask belongs to one picture: it is chosen anew for the next, and comes back with its own. */
  masked(mask) {
    const files = new DataTransfer();
    if (mask) files.items.add(mask);
    get("mask").files = files.files;
  }

  /** Puts the settings of a job into the form. */
  fill(settings, model, output) {
    const left = { ...settings };
    const take = (name) => {
      const value = left[name];
      delete left[name];
      return value === undefined || value === null ? "" : String(value);
    };
    const scale = take("scale"), edge = take("long-edge"), exact = take("size");
    const radio = ["2", "3", "4"].includes(scale) || (!scale && !edge && !exact) ? scale || "4" : "other";
    this.form.elements.size.value = radio;
    if (radio === "other") {
      get("size-kind").value = exact ? "size" : edge ? "long-edge" : "scale";
      const [one, two] = exact ? exact.split("x") : [edge || scale, get("size-two").value];
      get("size-one").value = one;
      get("size-two").value = two;
    }
    const strength = take("strength");
    this.strengthIsSet = strength !== "";
    get("strength").value = strength || OWN_STRENGTH;
    get("prompt").value = take("prompt");
    get("seed").value = take("seed");
    get("profile").value = take("profile");
    for (const name of NUMBERS) get(name).value = take(name);
    get("format").value = output?.format ?? "";
    if (get("format").selectedIndex < 0) get("format").value = "";
    get("quality").value = output?.quality ?? "";
    get("model").value = model ?? "";
    if (get("model").selectedIndex < 0) get("model").value = "";
    get("further").replaceChildren();
    for (const [name, value] of Object.entries(left)) if (value !== false && value !== null) this.further(name, value === true ? "" : String(value));
    if (Object.keys(left).length) get("advanced").open = true;
    this.follow();
  }

  /** A row for a setting by its name. */
  further(name = "", value = "") {
    const names = make("input", { type: "text", value: name, placeholder: "name", spellcheck: false });
    names.setAttribute("list", "names");
    names.setAttribute("aria-label", "Name of the setting");
    const values = make("input", { type: "text", value, placeholder: "value" });
    values.setAttribute("aria-label", "Value of the setting; empty for one without a value");
    const away = make("button", { type: "button", className: "quiet", textContent: "×" });
    away.setAttribute("aria-label", "Take this setting out");
    const row = make("div", { className: "row" }, names, values, away);
    away.addEventListener("click", () => {
      row.remove();
      get("further-add").focus();
      this.changed();
    });
    get("further").append(row);
    return names;
  }

  /** Shows and hides what depends on another field. */
  follow() {
    const isOther = this.form.elements.size.value === "other", kind = get("size-kind").value;
    get("other").hidden = !isOther;
    get("size-two").hidden = kind !== "size";
    // What is not shown is not checked.
    get("size-one").disabled = !isOther;
    get("size-two").disabled = !isOther || kind !== "size";
    put(get("size-by"), { size: "×", "long-edge": "px", scale: "×" }[kind]);
    get("size-one").setAttribute("aria-label", { size: "Width in pixels", "long-edge": "Longer side in pixels", scale: "Factor" }[kind]);
    get("quality-field").hidden = get("quality").disabled = get("format").value !== "jpeg";
    get("strength").classList.toggle("own", !this.strengthIsSet);
    put(get("strength-said"), this.strengthIsSet ? Number(get("strength").value).toFixed(2) : "the model’s own");
    get("strength").setAttribute("aria-valuetext", this.strengthIsSet ? get("strength").value : "the model’s own");
    get("strength-own").hidden = !this.strengthIsSet;
  }

  changed() {
    this.follow();
    try {
      const { settings, model, output } = this.order();
      sessionStorage.setItem(KEPT, JSON.stringify({ settings, model, output }));
    } catch { /* Without a storage the settings are those of this page alone. */ }
    this.onChange();
  }

  listen() {
    get("strength").addEventListener("input", () => {
      this.strengthIsSet = true;
    });
    get("strength-own").addEventListener("click", () => {
      this.strengthIsSet = false;
      get("strength").value = OWN_STRENGTH;
      get("strength").focus();
      this.changed();
    });
    get("dice").addEventListener("click", () => {
      get("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
      this.changed();
    });
    get("size-kind").addEventListener("change", () => {
      const one = get("size-one");
      one.value = get("size-kind").value === "scale" ? "1.5" : Number(one.value) < 16 ? "2048" : one.value;
    });
    get("further-add").addEventListener("click", () => this.further().focus());
    this.form.addEventListener("input", () => this.changed());
    this.follow();
  }
}

/** What a job with these settings would make of a picture of this size, in words; `isRefused` if the server would not. */
const planWords = async (item, order, limits, signal) => {
  try {
    const { width, height, alpha } = item;
    const plan = await api.post("/v1/plan", { width, height, alpha: Boolean(alpha), settings: order.settings, model: order.model }, signal);
    const pixels = plan.width * plan.height;
    if (limits?.pixels && pixels > limits.pixels) {
      return { isRefused: true, text: `${sizeWords(plan.width, plan.height)} is more than this server makes (${Math.round(limits.pixels / 1e6)} megapixels). Choose a smaller size.` };
    }
    const time = /^time\s+(.*?)(?:,|$)/m.exec(plan.text)?.[1];
    const parts = [sizeWords(plan.width, plan.height), plan.regions ? count(plan.regions, "region", "regions") : "", time && /\d/.test(time) ? time : ""];
    return { isRefused: false, text: parts.filter(Boolean).join("  ·  ") };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { isRefused: ["settings", "too_large", "input"].includes(error.kind), text: error.kind === "unreachable" ? "" : error.message };
  }
};
