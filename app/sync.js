() => {
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
  setInterval(follow, 1000);
}
