"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const names = { F: "forward pass", B: "backward pass", W: "gradients of weights", U: "update", M: "all-reduce between stages", host: "host, once per step" };
  document.documentElement.classList.add("js");

  function time(us) {
    const [scale, unit] = us >= 1e6 ? [1e6, "s"] : us >= 1e3 ? [1e3, "ms"] : [1, "us"];
    return Number((us / scale).toPrecision(4)) + " " + unit;
  }

  // The data of what is pointed at: of a page that compares, one of several.
  function side(target) {
    const part = target.closest("[data-side]");
    return part ? data.sides[part.dataset.side] : data;
  }

  // What a box of the whole timeline tells: it stands in the data at the same place.
  function box(target) {
    const row = target.closest("g.row");
    const rows = side(target).timeline.rows;
    if (!row || !rows || !target.closest('[data-part="all"]')) return "";
    const at = Array.prototype.indexOf.call(row.children, target);
    const [kind, micro, chunk, start, duration] = rows[row.dataset.row][at];
    const of = "FBW".indexOf(kind) < 0 ? "" : " of micro-batch " + micro + (chunk ? ", chunk " + chunk : "");
    return names[kind] + of + "\n" + time(duration) + ", from " + time(start) + " to " + time(start + duration);
  }

  // What a place in the curve of memory tells.
  function memory(target, event) {
    const plot = target.closest("svg[data-memory]");
    if (!plot) return "";
    const series = side(target).memory.find(function (m) { return m.memory === plot.dataset.memory; });
    const bounds = plot.getBoundingClientRect();
    const at = (event.clientX - bounds.left) / bounds.width * Number(plot.dataset.length);
    const row = series.rows.find(function (r) { return r[0] + r[1] >= at; });
    if (!row || event.clientX < bounds.left) return "";
    const parts = series.columns.slice(3).map(function (role, i) { return [role, row[i + 3]]; });
    const total = parts.reduce(function (sum, p) { return sum + p[1]; }, 0);
    const lines = parts.filter(function (p) { return p[1] >= total / 1000; }).sort(function (a, b) { return b[1] - a[1]; });
    const shown = lines.map(function (p) { return p[0] + " " + bytes(p[1]); });
    return [(row[2] || "between passes") + ": " + bytes(total)].concat(shown).join("\n");
  }

  function bytes(n) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let i = 0;
    for (; n >= 1024 && units.length > i + 1; i++) n /= 1024;
    return (i ? n.toFixed(1) : n) + " " + units[i];
  }

  document.addEventListener("pointermove", function (event) {
    const target = event.target;
    if (!target.closest) return;
    const told = target.closest("[data-tip]");
    const text = told ? told.dataset.tip : box(target) || memory(target, event);
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const x = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const y = below + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : below;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  });
  document.addEventListener("pointerleave", function () { tip.hidden = true; });

  document.querySelectorAll(".timeline").forEach(function (part) {
    const scroll = part.querySelector(".scroll");
    const picture = scroll.firstElementChild;
    const buttons = Array.from(part.querySelectorAll(".zoom button"));
    let zoom = 1;
    function to(wanted, x) {
      const at = (scroll.scrollLeft + x) / picture.getBoundingClientRect().width;
      zoom = wanted;
      picture.style.width = 100 * zoom + "%";
      part.className = "timeline z" + Math.log2(zoom);
      scroll.scrollLeft = at * picture.getBoundingClientRect().width - x;
      buttons.forEach(function (b) { b.setAttribute("aria-pressed", String(Number(b.dataset.zoom) === zoom)); });
    }
    buttons.forEach(function (b) {
      b.addEventListener("click", function () { to(Number(b.dataset.zoom), scroll.clientWidth / 2); });
    });
    scroll.addEventListener("wheel", function (event) {
      if (!buttons.length || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      const wanted = event.deltaY > 0 ? zoom / 2 : zoom * 2;
      if (buttons.some(function (b) { return Number(b.dataset.zoom) === wanted; })) {
        to(wanted, event.clientX - scroll.getBoundingClientRect().left);
      }
    }, { passive: false });
    if (buttons.length) to(1, 0);
  });
})();
