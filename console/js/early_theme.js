// Runs before the first paint, so that the page does not flash in the other theme. Classic script on purpose: modules wait.
(function () {
  try {
    const theme = localStorage.getItem('polybolos.theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch { /* storage is switched off: the system's theme rules */ }
})();
