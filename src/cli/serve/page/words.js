"use strict";
// Elements by their id, and the words in which numbers, stages and errors are said. Foreign text goes into the page as text only.

const get = (id) => document.getElementById(id);

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

/** Changes a text only where it differs: what reads the page aloud is not told twice. */
const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

const SPACE = "\u2009";
const sizeWords = (width, height) => `${width} × ${height} px`;
const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const bytesWords = (bytes) => {
  if (bytes < 1000) return count(bytes, "byte", "bytes");
  const units = ["kB", "MB", "GB"];
  let value = bytes / 1000;
  while (value >= 999.5 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${value >= 99.5 ? Math.round(value) : value.toPrecision(2)} ${units[0]}`;
};

const secondsWords = (seconds) => {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};

/** What is left is never said more finely than it is known. */
const leftWords = (seconds) => {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return "nearly done";
  if (seconds < 10) return `about ${Math.ceil(seconds)} s left`;
  if (seconds < 90) return `about ${Math.ceil(seconds / 5) * 5} s left`;
  return `about ${secondsWords(seconds)} left`;
};

const STAGES = {
  caption: "Describing the regions",
  enlarge: "Enlarging for a start",
  encode: "Taking the picture in",
  denoise: "Repainting",
  decode: "Putting the picture together",
};

/** What a running job does just now: `Repainting, 12 of 88 regions × steps`. */
const doingWords = (job) => {
  if (job.state === "waiting") {
    // `ahead` counts what waits, and not the one that runs.
    return job.ahead > 0 ? `Waiting, with ${count(job.ahead, "job", "jobs")} before it in the queue` : "Next in turn";
  }
  const stage = STAGES[job.stage] ?? (job.kind === "captions" ? STAGES.caption : "Getting ready");
  return job.stage && job.total > 1 ? `${stage}: ${job.done} of ${job.total}` : stage;
};

const percent = (share) => `${Math.floor((share ?? 0) * 100)}${SPACE}%`;

const ERRORS = {
  request: ["This page and the server do not understand each other", "Reload the page. If that does not help, they are of different versions."],
  settings: ["A setting does not fit", "Change it and try again."],
  input: ["This picture cannot be read", "Open it in an editor and save it as PNG, TIFF or JPEG."],
  unauthorized: ["The server asks for its token", "Reload this page with the address that the server printed when it was started."],
  forbidden: ["The server does not answer under this name", "Open the address that it printed when it was started, or start it with --allow-host."],
  not_found: ["The server has no such job any more", "It was removed, or kept as long as the server keeps jobs."],
  conflict: ["That does not go now", ""],
  too_large: ["This is too large for the server", "Make the picture or its enlargement smaller. Who runs the server can raise the limits with --max-body and --max-pixels."],
  unsupported: ["The server does not take this kind of data", ""],
  busy: ["The server’s queue is full", "The picture is sent as soon as there is room."],
  memory: ["There is not enough memory for this job", "Ask for a smaller size, or use a machine with more memory."],
  failed: ["The job failed", "Try again, or with other settings."],
  timeout: ["It took longer than the server allows", "Ask for a smaller size or fewer steps. Who runs the server can raise the limit with --max-time."],
  disk: ["The server’s disk is full", "Clear finished jobs and try again, or ask who runs the server."],
  method: ["This page and the server do not understand each other", "Reload the page. If that does not help, they are of different versions."],
  fault: ["The program made a mistake", "The server goes on. Please report what is said above."],
  stopping: ["The server is stopping", "The picture is sent when it is back."],
  unreachable: ["The server does not answer", "Is it still running? The picture is sent as soon as it answers."],
};

const errorWords = (error) => {
  const [title, advice] = ERRORS[error.kind] ?? ERRORS.failed;
  const message = error.message ?? "";
  return { title, text: message && message[0].toUpperCase() + message.slice(1), advice };
};

let lastSaid = 0;
/** Says something aloud; what `may_wait` is left out if something was said a moment ago. */
const announce = (text, mayWait = false) => {
  const now = performance.now();
  if (mayWait && now - lastSaid < 8000) return;
  lastSaid = now;
  put(get("said"), text);
};
