// The picture on its stage: where it lies, how large, and where the border between before and after is.

/** An element with the picture of a blob, once it can be shown; null where the browser cannot read this kind. */
const picture = async (url, alt, sync = false) => {
  const image = new Image();
  image.alt = alt;
  image.decoding = sync ? "sync" : "async";
  image.draggable = false;
  image.src = url;
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    // Decoded once, before it is shown, so that it appears at once. Of a huge one the browser shows tile by tile.
    if (image.naturalWidth * image.naturalHeight <= 5e7) await image.decode().catch(() => {});
    return image.naturalWidth ? image : null;
  } catch {
    return null;
  }
};

const LARGEST = 16;

class View {
  constructor() {
    this.view = get("view");
    this.paper = get("paper");
    this.handle = get("handle");
    this.width = this.height = 0;
    this.scale = 1;
    this.left = this.top = 0;
    this.fits = true;
    this.at = 0.5;
    this.compared = false;
    this.pointers = new Map();
    /** Called when the picture has moved, with what of it is visible, in its own pixels. */
    this.onMove = () => {};
    /** Called for a click on the picture; it says whether that meant something. */
    this.onClick = () => false;
    new ResizeObserver(() => this.resize()).observe(this.view);
    this.listen();
  }

  /** Takes away what was shown. */
  clear() {
    this.paper.replaceChildren();
    this.paper.classList.remove("ready", "dim");
    this.before = this.after = null;
    this.width = this.height = 0;
    this.compare(false);
    this.fits = true;
    this.at = 0.5;
    this.place();
  }

  /** The size of the picture in pixels of the output, which both layers are stretched to. */
  size(width, height) {
    if (!width || !height || (width === this.width && height === this.height)) return;
    const middle = this.width ? [(this.view.clientWidth / 2 - this.left) / this.scale / this.width, (this.view.clientHeight / 2 - this.top) / this.scale / this.height] : null;
    const shown = this.scale * this.width;
    [this.width, this.height] = [width, height];
    this.paper.style.setProperty("width", `${width}px`);
    this.paper.style.setProperty("height", `${height}px`);
    if (this.fits || !middle) return this.fit();
    this.scale = shown / width;
    this.left = this.view.clientWidth / 2 - middle[0] * width * this.scale;
    this.top = this.view.clientHeight / 2 - middle[1] * height * this.scale;
    this.place();
  }

  /** Puts an element of `picture` into one of the two layers. */
  layer(name, image) {
    if (this[name] === image) return;
    if (this[name]) this[name].remove();
    this[name] = image;
    if (image) {
      image.className = name;
      if (name === "before") this.paper.prepend(image); else this.paper.append(image);
    }
    this.paper.classList.toggle("ready", Boolean(this.before || this.after));
    this.place();
  }

  compare(compared) {
    this.compared = compared;
    this.view.classList.toggle("compared", compared);
    for (const id of ["border", "tag-before", "tag-after"]) get(id).hidden = !compared;
    this.place();
  }

  fitting() {
    const { clientWidth: width, clientHeight: height } = this.view;
    return Math.min(width / this.width, height / this.height, this.one() * 4) || 1;
  }

  /** The scale at which a pixel of the picture is one of the screen. */
  one() {
    return 1 / (devicePixelRatio || 1);
  }

  fit() {
    this.fits = true;
    this.scale = this.fitting();
    this.place();
  }

  /** Zooms so that the picture's point under (x, y) of the view stays there. */
  zoom(scale, x = this.view.clientWidth / 2, y = this.view.clientHeight / 2) {
    const least = this.fitting();
    const next = Math.min(Math.max(scale, Math.min(least, this.one())), LARGEST * this.one());
    this.left = x - (x - this.left) * next / this.scale;
    this.top = y - (y - this.top) * next / this.scale;
    this.scale = next;
    this.fits = Math.abs(next - least) < 1e-6;
    this.place();
  }

  resize() {
    if (!this.width) return;
    if (this.fits) this.fit(); else this.place();
  }

  /** Draws everything where it belongs. */
  place() {
    const { clientWidth: wide, clientHeight: high } = this.view;
    const width = this.width * this.scale, height = this.height * this.scale;
    // What is smaller than the view lies in its middle, and nothing is pushed out of sight.
    this.left = width <= wide ? (wide - width) / 2 : Math.min(0, Math.max(wide - width, this.left));
    this.top = height <= high ? (high - height) / 2 : Math.min(0, Math.max(high - height, this.top));
    const style = this.paper.style;
    style.setProperty("transform", `translate(${this.left}px, ${this.top}px) scale(${this.scale})`);
    style.setProperty("--square", `${16 / this.scale}px`);
    const isLarge = width > wide + 1 || height > high + 1;
    this.view.classList.toggle("zoomed", isLarge);
    this.paper.classList.toggle("near", this.scale / this.one() >= 3);
    const from = Math.max(0, this.left), to = Math.min(wide, this.left + width);
    const border = from + (to - from) * this.at;
    if (this.compared) {
      const cut = Math.max(0, (border - this.left) / this.scale);
      this.before?.style.setProperty("clip-path", `inset(0 ${Math.max(0, this.width - cut)}px 0 0)`);
      this.after?.style.setProperty("clip-path", `inset(0 0 0 ${cut}px)`);
      const edge = get("border").style;
      edge.setProperty("left", `${border}px`);
      const above = Math.max(0, this.top), below = Math.max(0, high - this.top - height);
      edge.setProperty("top", `${above}px`);
      edge.setProperty("bottom", `${below}px`);
      for (const [id, side, value] of [["tag-before", "left", from + 10], ["tag-after", "right", wide - to + 10]]) {
        get(id).style.setProperty(side, `${value}px`);
        get(id).style.setProperty("bottom", `${below + 10}px`);
      }
      const said = Math.round(this.at * 100);
      this.handle.setAttribute("aria-valuenow", said);
      this.handle.setAttribute("aria-valuetext", `${said} percent before, ${100 - said} percent after`);
    } else {
      for (const image of [this.before, this.after]) image?.style.removeProperty("clip-path");
    }
    get("zoom").hidden = !this.width;
    put(get("scale"), this.width ? `${Math.round(this.scale / this.one() * 100)}${SPACE}%` : "");
    if (this.width) this.onMove([-this.left / this.scale, -this.top / this.scale, wide / this.scale, high / this.scale], [wide, high]);
  }

  /** Moves the border to a place of the view. */
  move(x) {
    const wide = this.view.clientWidth, width = this.width * this.scale;
    const from = Math.max(0, this.left), to = Math.min(wide, this.left + width);
    this.at = Math.min(1, Math.max(0, (x - from) / (to - from || 1)));
    this.place();
  }

  listen() {
    const { view, handle } = this;
    const point = (event) => {
      const box = view.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    get("fit").addEventListener("click", () => this.fit());
    get("one").addEventListener("click", () => this.zoom(this.one()));
    get("larger").addEventListener("click", () => this.zoom(this.scale * 1.5));
    get("smaller").addEventListener("click", () => this.zoom(this.scale / 1.5));

    view.addEventListener("pointerdown", (event) => {
      if (event.button || !this.width) return;
      const at = point(event);
      this.pointers.set(event.pointerId, at);
      const onHandle = handle.contains(event.target);
      if (onHandle) event.preventDefault();
      if (onHandle) handle.focus({ preventScroll: true });
      this.drag = { start: at, moved: false, what: onHandle || !view.classList.contains("zoomed") ? (this.compared ? "border" : "") : "pan", target: event.target };
    });
    view.addEventListener("pointermove", (event) => {
      const last = this.pointers.get(event.pointerId);
      if (!last) return;
      const at = point(event);
      if (this.pointers.size === 2) {
        const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
        const far = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
        this.drag.moved = true;
        this.zoom(this.scale * far(at) / far(last), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
      } else {
        // A click that trembles is still a click.
        if (!this.drag.moved && Math.hypot(at[0] - this.drag.start[0], at[1] - this.drag.start[1]) < 4) return;
        if (!this.drag.moved) view.setPointerCapture(event.pointerId);
        this.drag.moved = true;
        if (this.drag.what === "border") this.move(at[0]);
        if (this.drag.what === "pan") {
          this.left += at[0] - last[0];
          this.top += at[1] - last[1];
          this.place();
        }
      }
      this.pointers.set(event.pointerId, at);
    });
    const end = (event) => {
      if (!this.pointers.delete(event.pointerId) || event.type !== "pointerup" || this.drag.moved) return;
      const at = point(event);
      if (handle.contains(this.drag.target)) return;
      if (this.onClick((at[0] - this.left) / this.scale, (at[1] - this.top) / this.scale)) return;
      if (this.drag.what === "border") this.move(at[0]);
    };
    view.addEventListener("pointerup", end);
    view.addEventListener("pointercancel", end);
    view.addEventListener("dblclick", (event) => {
      if (handle.contains(event.target) || !this.width) return;
      if (this.fits) this.zoom(this.one(), ...point(event)); else this.fit();
    });
    view.addEventListener("wheel", (event) => {
      // On a narrow page the wheel scrolls it, unless a key or two fingers ask for zoom.
      if (!this.width || !(event.ctrlKey || matchMedia("(min-width: 900px) and (min-height: 480px)").matches)) return;
      event.preventDefault();
      this.zoom(this.scale * Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...point(event));
    }, { passive: false });
    handle.addEventListener("keydown", (event) => {
      const at = { ArrowLeft: this.at - 0.01, ArrowDown: this.at - 0.01, ArrowRight: this.at + 0.01, ArrowUp: this.at + 0.01, PageDown: this.at - 0.1, PageUp: this.at + 0.1, Home: 0, End: 1 }[event.key];
      if (at === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.at = Math.min(1, Math.max(0, event.shiftKey ? this.at + (at - this.at) * 10 : at));
      this.place();
    });
    view.addEventListener("keydown", (event) => {
      if (event.target !== view || event.ctrlKey || event.altKey || event.metaKey || !this.width) return;
      const far = 80;
      const way = { ArrowLeft: [far, 0], ArrowRight: [-far, 0], ArrowUp: [0, far], ArrowDown: [0, -far] }[event.key];
      if (way && view.classList.contains("zoomed")) {
        this.left += way[0];
        this.top += way[1];
        this.place();
      } else if (event.key === "+" || event.key === "=") this.zoom(this.scale * 1.5);
      else if (event.key === "-") this.zoom(this.scale / 1.5);
      else if (event.key === "0") this.fit();
      else if (event.key === "1") this.zoom(this.one());
      else return;
      event.preventDefault();
    });
  }
}
