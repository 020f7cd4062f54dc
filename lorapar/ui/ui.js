// Look again while runs go on: parts of the page that changed are exchanged, choices and focus stay.
"use strict";
(() => {
  const chosen = () => [...document.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.id);

  function exchange(page) {
    const kept = chosen();
    const focused = document.activeElement && document.activeElement.id;
    for (const old of document.querySelectorAll("[data-part]")) {
      const fresh = page.querySelector(`[data-part="${old.dataset.part}"]`);
      if (!fresh || fresh.innerHTML === old.dataset.seen) continue;
      if (old.dataset.seen === undefined && fresh.innerHTML === old.innerHTML) continue;
      const text = fresh.innerHTML;
      const sideways = [...old.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
      old.innerHTML = text;
      old.dataset.seen = text;
      old.querySelectorAll(".scroll").forEach((part, place) => { part.scrollLeft = sideways[place] || 0; });
    }
    for (const id of kept) {
      const box = document.getElementById(id);
      if (box) box.checked = true;
    }
    const again = focused && document.getElementById(focused);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  }

  async function look() {
    const main = document.querySelector("main");
    if (!document.hidden) {
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          exchange(page);
          main.dataset.every = page.querySelector("main").dataset.every;
        }
      } catch (error) {
        // The server is gone or busy; the next look may find it again.
      }
    }
    plan();
  }

  function plan() {
    const seconds = Number(document.querySelector("main").dataset.every);
    if (seconds > 0) setTimeout(look, seconds * 1000);
  }

  plan();
})();
