() => {
  // Gradio's pictures load once they come near the window. Here they are small, and a column of white boxes looks broken.
  const load = () => document.querySelectorAll("img[loading=lazy]").forEach((image) => { image.loading = "eager"; });
  new MutationObserver(load).observe(document.body, { childList: true, subtree: true });

  // Cards without holes between them: each keeps its column, and spans as many of the grid's fine rows as it is high.
  const ROW = 4;
  const pack = (grid) => {
    [...grid.children].forEach((card) => { card.style.gridColumn = ""; }); // or columns that no longer fit would count
    const style = getComputedStyle(grid), columns = style.gridTemplateColumns.split(" ").length;
    [...grid.children].filter((card) => card.offsetHeight).forEach((card, index) => {
      card.style.gridColumn = `${(index % columns) + 1}`;
      card.style.gridRow = `span ${Math.ceil((card.offsetHeight + parseFloat(style.columnGap)) / ROW)}`;
    });
    grid.classList.add("vv-packed");
  };
  const packed = new WeakSet();
  const sizes = new ResizeObserver((changes) => new Set(changes.map((one) => one.target.closest(".vv-grid"))).forEach(pack));
  const watch = () => document.querySelectorAll(".vv-grid").forEach((grid) => {
    if (packed.has(grid)) return;
    packed.add(grid);
    [grid, ...grid.children].forEach((part) => sizes.observe(part));
  });

  // Films of one question start when their family answers; keep them in step, so that columns compare.
  const follow = () => {
    const films = [...document.querySelectorAll(".vv-synced video")].filter((v) => v.readyState > 1 && v.offsetParent);
    films.forEach((film) => {
      film.muted = true;
      if (film.paused) film.play().catch(() => {});
    });
    const [first, ...others] = films;
    others.forEach((film) => {
      const near = first.currentTime > 0.3 && first.currentTime < first.duration - 0.3;
      if (near && Math.abs(film.currentTime - first.currentTime) > 0.12) film.currentTime = first.currentTime;
    });
  };
  setInterval(() => { follow(); watch(); }, 1000);
}
