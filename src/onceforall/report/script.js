"use strict";
(() => {
  document.documentElement.classList.add("js");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // -- numbers, as numbers.py writes them -------------------------------------------------------

  const digits = (value) => String(Number(value.toPrecision(3)));
  const count = (value) => {
    const units = ["", " k", " M", " G"];
    let position = 0;
    while (value >= 999.5 && position < units.length - 1) {
      value /= 1000;
      position += 1;
    }
    return digits(value) + units[position];
  };
  const COSTS = {
    latency_ms: (value) => `${digits(value)} ms`,
    macs: (value) => `${count(value)} MACs`,
    params: (value) => `${count(value)} parameters`,
  };

  // -- selection --------------------------------------------------------------------------------

  const select = (index) => {
    const panel = document.getElementById(`m${index}`);
    if (!panel) return null;
    for (const item of all("[data-m]")) {
      const chosen = item.dataset.m === String(index);
      chosen ? item.setAttribute("aria-current", "true") : item.removeAttribute("aria-current");
      if (item.matches(".mark")) item.setAttribute("tabindex", chosen ? "0" : "-1");
    }
    for (const other of all(".model")) other.classList.toggle("selected", other === panel);
    for (const place of all("[data-fill]")) place.textContent = panel.dataset[place.dataset.fill];
    panel.parentElement.scrollTop = 0;
    try {
      history.replaceState(null, "", `#m${index}`);
    } catch {
      // Some viewers of local files forbid it; the selection works without.
    }
    return panel;
  };

  const reveal = (panel) => {
    const box = panel.parentElement.getBoundingClientRect();
    if (box.top < 0 || box.top > innerHeight * 0.6) panel.parentElement.scrollIntoView();
    panel.focus({ preventScroll: true });
  };

  const setUpSelection = () => {
    for (const mark of all("a.mark")) {
      mark.addEventListener("click", (event) => {
        event.preventDefault();
        select(mark.dataset.m);
      });
    }
    for (const row of all(".models tbody tr")) {
      row.addEventListener("click", (event) => {
        event.preventDefault();
        const panel = select(row.dataset.m);
        if (panel && event.target.closest("a")) reveal(panel);
      });
    }
    const fromAddress = () => {
      const match = /^#m(\d+)$/.exec(location.hash);
      return match ? select(match[1]) : null;
    };
    addEventListener("hashchange", fromAddress);
    const start = document.querySelector(".model.selected");
    if (!fromAddress() && start) {
      const index = start.id.slice(1);
      for (const mark of all("a.mark")) {
        mark.setAttribute("tabindex", mark.dataset.m === index ? "0" : "-1");
      }
    }
  };

  // -- chart: the nearest mark speaks -----------------------------------------------------------

  const position = (value, [low, high, log]) =>
    log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);

  const figures = (index) => {
    const values = all(`#m${index} .figures dd`).map((cell) => cell.firstChild.textContent);
    const words = ["top-1", "", "MACs", "parameters"];
    const known = values.map((value, i) => (value === "\u2014" ? "" : `${value} ${words[i]}`.trim()));
    return [known.slice(0, 2), known.slice(2)].map((pair) => pair.filter(Boolean).join(", "));
  };

  const spots = (panel, data) => {
    const plot = panel.querySelector(".plot");
    const [x, y] = [plot.dataset.x, plot.dataset.y].map((text) => text.split(",").map(Number));
    const cost = panel.dataset.cost;
    const column = data.costs.indexOf(cost) + 2;
    const factor = Number(plot.dataset.factor);
    const found = all("a.mark", panel).map((mark) => {
      const disc = mark.querySelector(".disc");
      const at = (name) => parseFloat(disc.getAttribute(name)) / 100;
      const index = mark.dataset.m;
      const { name } = document.getElementById(`m${index}`).dataset;
      return { x: at("cx"), y: at("cy"), reach: 26, mark, name, lines: () => figures(index) };
    });
    const add = (rows, what) => {
      for (const row of rows) {
        if (row[column] === null || row[1] === null) continue;
        const place = { x: position(row[column] * factor, x), y: 1 - position(100 * row[1], y) };
        if (place.y > 1) continue;
        const costs = data.costs.map((key, i) => row[i + 2] === null ? "" : COSTS[key](row[i + 2]));
        const lines = [`${(100 * row[1]).toFixed(1)} % top-1, ${what}`, costs.filter(Boolean).join(", ")];
        found.push({ ...place, reach: 10, name: row[0], lines: () => lines });
      }
    };
    add(data.front, "predicted");
    add(data.samples, "validation images");
    return { plot, found };
  };

  const nearest = ({ plot, found }, event) => {
    const box = plot.getBoundingClientRect();
    let best = null;
    for (const spot of found) {
      const dx = box.left + spot.x * box.width - event.clientX;
      const dy = box.top + spot.y * box.height - event.clientY;
      const distance = Math.hypot(dx, dy);
      if (distance > spot.reach) continue;
      // A model wins over the dots around it.
      const rank = spot.mark ? distance - 16 : distance;
      if (!best || rank < best.rank) best = { rank, spot };
    }
    return best && best.spot;
  };

  const setUpChart = (data) => {
    const tip = document.getElementById("tip");
    const hide = () => {
      tip.hidden = true;
      for (const mark of all(".mark.near")) mark.classList.remove("near");
    };
    const show = (plot, spot) => {
      hide();
      if (spot.mark) spot.mark.classList.add("near");
      tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: spot.name }));
      for (const line of spot.lines().filter(Boolean)) {
        tip.append(Object.assign(document.createElement("div"), { textContent: line }));
      }
      tip.hidden = false;
      const box = plot.getBoundingClientRect();
      const [x, y] = [box.left + spot.x * box.width, box.top + spot.y * box.height];
      const size = tip.getBoundingClientRect();
      // A front rises to the right: there is most room below it.
      const { clientWidth: width, clientHeight: height } = document.documentElement;
      const left = x + 16 + size.width < width - 8 ? x + 16 : x - 16 - size.width;
      const top = y + 16 + size.height < height - 8 ? y + 16 : y - 16 - size.height;
      tip.style.left = `${Math.max(8, Math.min(width - size.width - 8, left))}px`;
      tip.style.top = `${Math.max(8, top)}px`;
    };
    for (const panel of all(".axis-panel")) {
      const scene = spots(panel, data);
      const { plot } = scene;
      const models = scene.found.filter((spot) => spot.mark).sort((a, b) => a.x - b.x);
      plot.addEventListener("pointermove", (event) => {
        const spot = nearest(scene, event);
        plot.style.cursor = spot && spot.mark ? "pointer" : "";
        spot ? show(plot, spot) : hide();
      });
      plot.addEventListener("pointerleave", hide);
      plot.addEventListener("click", (event) => {
        const spot = nearest(scene, event);
        if (!spot) return;
        show(plot, spot);
        if (spot.mark && !event.defaultPrevented) select(spot.mark.dataset.m);
      });
      models.forEach((spot, place) => {
        spot.mark.addEventListener("focus", () => {
          if (spot.mark.matches(":focus-visible")) show(plot, spot);
        });
        spot.mark.addEventListener("blur", hide);
        spot.mark.addEventListener("keydown", (event) => {
          const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          if (event.key === "Escape") hide();
          if (!step) return;
          event.preventDefault();
          models[(place + step + models.length) % models.length].mark.focus();
        });
      });
    }
    for (const radio of all(".axis-radio")) radio.addEventListener("change", hide);
    addEventListener("scroll", hide, { passive: true });
  };

  // -- limit: the model to take under it --------------------------------------------------------

  const setUpLimits = () => {
    const units = { latency_ms: "", macs: " MACs", params: " parameters" };
    for (const input of all(".limit input")) {
      const panel = input.closest(".axis-panel");
      const [line, output] = [".bound", "output"].map((part) => panel.querySelector(part));
      const { cost } = panel.dataset;
      const figure = Object.keys(units).indexOf(cost) + 1;
      const pairs = input.dataset.bounds.split(" ").map((pair) => pair.split(","));
      const current = document.querySelector(".model.selected").id.slice(1);
      const start = pairs.findLastIndex(([, taken]) => taken === current);
      input.value = start < 0 ? pairs.length - 1 : start;
      const show = () => {
        const [bound, taken] = pairs[input.value];
        const place = panel.querySelector(`.mark[data-m="${bound}"] .disc`).getAttribute("cx");
        for (const end of ["x1", "x2"]) line.setAttribute(end, place);
        const limit = all(`#m${bound} .figures dd`)[figure].firstChild.textContent + units[cost];
        const { name } = document.getElementById(`m${taken}`).dataset;
        output.textContent = `up to ${limit}: ${name}`;
        input.setAttribute("aria-valuetext", output.textContent);
        return taken;
      };
      show();
      input.addEventListener("input", () => {
        panel.classList.add("limited");
        select(show());
      });
    }
  };

  // -- table ------------------------------------------------------------------------------------

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  const setUpTable = () => {
    const table = document.getElementById("models");
    if (!table) return;
    const body = table.tBodies[0];
    all("thead th", table).forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.v }));
        rows.sort((a, b) => {
          // What is unknown stays at the end, in both directions.
          if (a.value === undefined || b.value === undefined) {
            return (a.value === undefined) - (b.value === undefined);
          }
          return (up ? 1 : -1) * compare(a.value, b.value);
        });
        body.append(...rows.map(({ row }) => row));
      });
    });
  };

  // -- copy buttons -----------------------------------------------------------------------------

  const copyText = async (code) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
  };

  const setUpCopying = () => {
    for (const button of all(".copy")) {
      button.addEventListener("click", async () => {
        await copyText(button.parentElement.querySelector("code"));
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    setUpSelection();
    setUpChart(JSON.parse(document.getElementById("run-data").textContent));
    setUpLimits();
    setUpTable();
    setUpCopying();
  });
})();
