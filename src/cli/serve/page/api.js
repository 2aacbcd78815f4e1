// What the server is asked, and how: addresses, the token, and the form of its errors stand here and nowhere else.

class Refusal extends Error {
  constructor(kind, message, wait = null) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

const TOKEN = "cupscale-token";

const api = {
  /** Called with whether the server answers, when that changes. */
  onReach: () => {},
  reaches: true,
  token: "",
  asking: null,

  /** Takes the token out of the page's address, where it would be seen, copied and kept. */
  begin() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    try {
      if (given) sessionStorage.setItem(TOKEN, given);
      this.token = given ?? sessionStorage.getItem(TOKEN) ?? "";
    } catch {
      this.token = given ?? "";
    }
    if (given) history.replaceState(null, "", location.pathname + location.search);
  },

  headers() {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  },

  reached(reaches) {
    if (reaches === this.reaches) return;
    this.reaches = reaches;
    this.onReach(reaches);
  },

  /** Asks for the token once for all requests that wait for it. */
  askToken(refused) {
    this.asking ??= new Promise((resolve) => {
      const dialog = get("ask-token");
      put(get("token-wrong"), refused ? "That is not this server’s token." : "");
      get("token").value = "";
      dialog.returnValue = "";
      dialog.addEventListener("close", () => {
        const token = dialog.returnValue === "yes" ? get("token").value.trim() : "";
        this.asking = null;
        if (token) {
          this.token = token;
          try {
            sessionStorage.setItem(TOKEN, token);
          } catch { /* Without a storage it is asked for again after a reload. */ }
        }
        resolve(Boolean(token));
      }, { once: true });
      dialog.showModal();
    });
    return this.asking;
  },

  /** The refusal that an answer is. */
  refusal(status, text, wait) {
    const kinds = { 401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "too_large", 429: "busy", 503: "stopping" };
    try {
      const { kind, message } = JSON.parse(text).error;
      return new Refusal(kind, message, wait);
    } catch {
      return new Refusal(kinds[status] ?? "failed", `The server answered with the code ${status}.`, wait);
    }
  },

  async ask(path, options = {}) {
    for (;;) {
      const token = this.token;
      let response;
      try {
        response = await fetch(path, { ...options, headers: { ...options.headers, ...this.headers() }, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.reached(false);
        throw new Refusal("unreachable", "");
      }
      this.reached(true);
      if (response.ok) return response;
      const refusal = this.refusal(response.status, await response.text().catch(() => ""), Number(response.headers.get("Retry-After")) || null);
      if (refusal.kind !== "unauthorized") throw refusal;
      // Another request may have got a new token meanwhile.
      if (token === this.token && !await this.askToken(Boolean(token))) throw refusal;
    }
  },

  async json(path, options) {
    return (await this.ask(path, options)).json();
  },

  post(path, value, signal) {
    return this.json(path, { method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" }, signal });
  },

  /** Sends a new job; unlike fetch, this request says how much of the picture is sent. */
  send(form, told, signal) {
    const attempt = () => new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const token = this.token;
      request.open("POST", "/v1/jobs");
      for (const [name, value] of Object.entries(this.headers())) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => event.lengthComputable && told(event.loaded / event.total);
      request.onload = () => {
        this.reached(true);
        if (request.status === 202) return resolve(JSON.parse(request.responseText));
        const refusal = this.refusal(request.status, request.responseText, Number(request.getResponseHeader("Retry-After")) || null);
        if (refusal.kind !== "unauthorized") return reject(refusal);
        if (token !== this.token) return resolve(attempt());
        this.askToken(Boolean(token)).then((given) => (given ? resolve(attempt()) : reject(refusal)));
      };
      request.onerror = () => {
        this.reached(false);
        reject(new Refusal("unreachable", ""));
      };
      request.onabort = () => reject(new DOMException("", "AbortError"));
      signal.addEventListener("abort", () => request.abort());
      if (signal.aborted) return reject(new DOMException("", "AbortError"));
      request.send(form);
    });
    return attempt();
  },

  /** The events of a job, until it ends or the connection does. */
  async *events(id, signal) {
    const response = await this.ask(`/v1/jobs/${id}/events`, { signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        let event = "message", data = "";
        for (const line of block.split(/\r?\n/)) {
          if (line.startsWith("event:")) event = line.slice(6).trim();
          if (line.startsWith("data:")) data += line.slice(5).trim();
        }
        if (data) yield { event, data: JSON.parse(data) };
      }
    }
  },

  /** A picture of a job and the name that the server gives it. */
  async file(id, what, signal) {
    const response = await this.ask(`/v1/jobs/${id}/${what}`, { signal });
    const said = response.headers.get("Content-Disposition") ?? "";
    const coded = /filename\*=UTF-8''([^;]+)/i.exec(said)?.[1];
    const plain = /filename="((?:[^"\\]|\\.)*)"/i.exec(said)?.[1]?.replace(/\\(.)/g, "$1");
    return { blob: await response.blob(), name: coded ? decodeURIComponent(coded) : plain };
  },
};
