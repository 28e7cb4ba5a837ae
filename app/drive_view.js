// Drawing and reading: what the tab Drive shows of a drive. Knows no socket.

const COLOURS = ["#f97316", "#8b5cf6", "#10b981", "#ec4899"];

/** A binary message -> its header and its pictures, {name: Blob[]}. */
const unpack = (buffer) => {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const pictures = {};
  let at = 4 + length;
  for (const [name, size] of header.pictures) {
    (pictures[name] ||= []).push(new Blob([new Uint8Array(buffer, at, size)], { type: "image/jpeg" }));
    at += size;
  }
  return { ...header, pictures };
};

/** Draw a picture to fill a canvas, or by how much it differs from another; of two that overlap the later one stays. */
const paint = async (canvas, blob, other = null) => {
  const turn = (canvas.turn = (canvas.turn || 0) + 1);
  const bitmap = blob && (await createImageBitmap(blob)), beside = other && (await createImageBitmap(other));
  if (canvas.turn === turn) {
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (bitmap) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    if (beside) {
      pen.globalCompositeOperation = "difference";
      pen.drawImage(beside, 0, 0, canvas.width, canvas.height);
      pen.globalCompositeOperation = "source-over";
    }
  }
  for (const drawn of [bitmap, beside]) drawn?.close();
};

const svg = (kind, values) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  Object.entries(values).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
};

const WIDTH = 420, HEIGHT = 150, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 20;

/** Round numbers from low to high, about four. */
const ticks = (low, high) => {
  const rough = (high - low) / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) found.push(v);
  return found;
};

/**
 * A chart of one measure over steps.
 * lines: [{values: (number|null)[] by step, colour, dashed, thin, dots}], seen: the step that is shown, least: its width.
 */
const chart = (place, title, unit, lines, seen, least = 16) => {
  const all = lines.flatMap((line) => line.values).filter((v) => Number.isFinite(v));
  let [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
  if (high - low < 1e-3) [low, high] = [low - 0.5, high + 0.5];
  const last = Math.max(least, ...lines.map((line) => line.values.length - 1));
  const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  const text = (content, values) => {
    const made = svg("text", values);
    made.textContent = content;
    picture.append(made);
  };
  if (all.length) {
    ticks(low, high).forEach((value) => {
      picture.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "vd-grid" }));
      text(+value.toFixed(3), { x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" });
    });
    ticks(0, last).forEach((step) => {
      if (Number.isInteger(step)) text(step, { x: x(step), y: HEIGHT - 5, "text-anchor": "middle" });
    });
    picture.append(svg("line", { x1: x(seen), x2: x(seen), y1: TOP, y2: HEIGHT - BOTTOM, class: "vd-seen" }));
  } else text("drawn from the first step on", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" });
  for (const { values, colour, dashed, thin, dots } of lines) {
    let path = "", pen = "M";
    values.forEach((value, step) => {
      if (!Number.isFinite(value)) return void (pen = "M");
      path += `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      if (dots) picture.append(svg("circle", { cx: x(step), cy: y(value), r: 3.5, fill: colour }));
    });
    const style = { d: path, fill: "none", stroke: colour, "stroke-width": thin ? 1.2 : 2 };
    picture.append(svg("path", dashed ? { ...style, "stroke-dasharray": "4 4" } : style));
  }
  const heading = document.createElement("div");
  heading.className = "vd-heading";
  heading.innerHTML = "<b></b><span></span>";
  heading.firstChild.textContent = title;
  heading.lastChild.textContent = unit;
  place.replaceChildren(heading, picture);
};

/** Films side by side that play on and on, and a map; parts: [[label, Blob[]]]. Returns what stops them. */
const playFilms = (place, parts, rate) => {
  const screens = parts.map(([label, film]) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 256;
    const caption = document.createElement("figcaption");
    caption.textContent = label;
    figure.append(canvas, caption);
    return { figure, canvas, film };
  });
  place.replaceChildren(...screens.map((screen) => screen.figure));
  let tick = 0;
  const show = () => screens.forEach(({ canvas, film }) => {
    if (film.length > 1 || tick === 0) paint(canvas, film[Math.min(tick % (film.length + 4), film.length - 1)]);
  });
  show();
  const timer = setInterval(() => {
    tick += 1;
    if (place.offsetParent) show();
  }, 2000 / rate);
  return () => clearInterval(timer);
};

const base64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
};

/** The file `wanted` of a zip as bytes, or null: an exported npz is large, its actions are small. */
const unzip = async (buffer, wanted) => {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) return null;
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    const nameLength = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + 46, nameLength));
    if (name === wanted) {
      const packed = view.getUint16(at + 10, true) === 8, size = view.getUint32(at + 20, true);
      const local = view.getUint32(at + 42, true);
      const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
      const plain = new Blob([new Uint8Array(buffer, start, size)]);
      const stream = packed ? plain.stream().pipeThrough(new DecompressionStream("deflate-raw")) : plain.stream();
      return new Uint8Array(await new Response(stream).arrayBuffer());
    }
    at += 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return null;
};

/** A picture file -> its middle square, at most 512 pixels a side, as a data address. */
const squareOf = async (file) => {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const side = Math.min(bitmap.width, bitmap.height), kept = Math.min(side, 512);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = kept;
  const left = (bitmap.width - side) / 2, top = (bitmap.height - side) / 2;
  canvas.getContext("2d").drawImage(bitmap, left, top, side, side, 0, 0, kept, kept);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.95);
};
