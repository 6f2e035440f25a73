// A classic script in the head: the theme that was chosen stands before the first paint.
try {
  const chosen = localStorage.getItem("mmembed-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (error) {
  console.info("the theme is that of the system, for this browser keeps no settings:", error.message);
}
