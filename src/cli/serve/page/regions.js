// Regions over the picture, and their captions, which can be changed.

class Regions {
  constructor() {
    this.grid = get("grid");
    this.cells = [];
    this.captions = null;
    this.at = -1;
    /** Called when a caption was changed. */
    this.onEdit = () => {};
    this.listen();
  }

  /** Shows a document of captions with an item's changes. */
  show(item, captions) {
    if (this.captions === captions && this.item === item) return;
    this.item = item;
    this.captions = captions;
    this.grid.replaceChildren();
    this.cells = [];
    this.at = -1;
    get("region").hidden = true;
    if (!captions) return;
    const { cols } = captions.grid;
    const add = (kind) => {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      rect.setAttribute("class", kind);
      this.grid.append(rect);
      return rect;
    };
    captions.regions.forEach((region, index) => {
      const rect = add("cell");
      // Regions overlap. What is drawn and clicked is the part in which no other region is nearer, up to the middle of each overlap.
      const find = (row, col) => captions.regions.find((other) => other.row === row && other.col === col);
      const [west, east] = [find(region.row, region.col - 1), find(region.row, region.col + 1)];
      const [north, south] = [find(region.row - 1, region.col), find(region.row + 1, region.col)];
      const left = west ? (region.x + west.x + west.width) / 2 : region.x;
      const right = east ? (region.x + region.width + east.x) / 2 : region.x + region.width;
      const upper = north ? (region.y + north.y + north.height) / 2 : region.y;
      const lower = south ? (region.y + region.height + south.y) / 2 : region.y + region.height;
      const place = { x: left, y: upper, width: right - left, height: lower - upper };
      for (const [name, value] of Object.entries(place)) rect.setAttribute(name, value);
      rect.setAttribute("role", "button");
      rect.setAttribute("tabindex", index ? "-1" : "0");
      rect.addEventListener("focus", () => this.choose(index));
      rect.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -cols, ArrowDown: cols }[event.key];
        if (step !== undefined) {
          event.preventDefault();
          this.cells[index + step]?.rect.focus();
        } else if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          get("caption").focus();
        }
      });
      this.cells.push({ rect, region, ...place });
      this.label(index);
    });
    this.under = add("under");
    this.whole = add("whole");
    this.mark();
  }

  text(index) {
    return this.item.edits.get(index) ?? this.captions.regions[index].caption;
  }

  label(index) {
    const { rect, region } = this.cells[index];
    rect.setAttribute("aria-label", `Row ${region.row + 1}, column ${region.col + 1}: ${this.text(index) || "the prompt"}`);
    rect.classList.toggle("edited", this.item.edits.has(index));
  }

  /** Shows a region's caption in the panel, and its whole extent in the picture. */
  choose(index) {
    if (!this.cells[index]) return;
    if (this.at >= 0) this.cells[this.at].rect.setAttribute("tabindex", "-1");
    this.at = index;
    this.cells[index].rect.setAttribute("tabindex", "0");
    const { region } = this.cells[index];
    put(get("caption-label"), `Row ${region.row + 1}, column ${region.col + 1}`);
    get("caption").value = this.text(index);
    get("caption").readOnly = this.item.isGoing;
    get("region").hidden = false;
    get("caption-back").hidden = !this.item.edits.has(index);
    this.mark();
  }

  mark() {
    for (const rect of [this.under, this.whole]) {
      for (const name of ["x", "y", "width", "height"]) rect.setAttribute(name, this.at < 0 ? 0 : this.cells[this.at].region[name]);
    }
  }

  /** Chooses the region at a point of the picture; whether there is one. */
  click(x, y) {
    if (this.grid.hasAttribute("hidden")) return false;
    const index = this.cells.findIndex((cell) => x >= cell.x && y >= cell.y && x < cell.x + cell.width && y < cell.y + cell.height);
    if (index < 0) return false;
    this.cells[index].rect.focus({ preventScroll: true });
    this.choose(index);
    return true;
  }

  /** The part of the picture that is visible. */
  move(box) {
    this.grid.setAttribute("viewBox", box.join(" "));
  }

  /** The document with what was changed. */
  edited() {
    const captions = structuredClone(this.captions);
    for (const [index, text] of this.item.edits) captions.regions[index].caption = text;
    return JSON.stringify(captions);
  }

  listen() {
    get("caption").addEventListener("input", () => {
      const text = get("caption").value;
      if (text === this.captions.regions[this.at].caption) this.item.edits.delete(this.at); else this.item.edits.set(this.at, text);
      get("caption-back").hidden = !this.item.edits.has(this.at);
      this.label(this.at);
      this.onEdit();
    });
    get("caption-back").addEventListener("click", () => {
      this.item.edits.delete(this.at);
      this.label(this.at);
      this.choose(this.at);
      get("caption").focus();
      this.onEdit();
    });
    const step = (way) => this.choose((this.at + way + this.cells.length) % this.cells.length);
    get("previous").addEventListener("click", () => step(-1));
    get("next").addEventListener("click", () => step(1));
  }
}
