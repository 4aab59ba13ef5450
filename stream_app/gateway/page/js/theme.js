// Before anything is drawn: the colours that were chosen.  Not a module, so that nothing flashes.

(() => {
  const KEY = "nextclick-theme";
  const CHOICES = ["system", "light", "dark"];
  const root = document.documentElement;

  function chosen() {
    try {
      const kept = localStorage.getItem(KEY);
      return CHOICES.includes(kept) ? kept : "system";
    } catch {
      return "system"; // storage is forbidden: the system's choice it is
    }
  }

  function apply(choice) {
    if (choice === "system") root.removeAttribute("data-theme");
    else root.dataset.theme = choice;
  }

  apply(chosen());

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = (choice) => {
      button.setAttribute("aria-label", `Colours: ${choice === "system" ? "as the system says" : choice}`);
      button.title = button.getAttribute("aria-label");
    };
    tell(chosen());
    button.addEventListener("click", () => {
      const next = CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length];
      try {
        localStorage.setItem(KEY, next);
      } catch {
        return;
      }
      apply(next);
      tell(next);
      dispatchEvent(new Event("themechange"));
    });
  });
})();
