// Light and dark: the system's choice until the person chooses.
const dark = matchMedia('(prefers-color-scheme: dark)');

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : dark.matches;
}

export function startTheme(button) {
  const show = () => button.setAttribute('aria-label', isDark() ? 'Change to light' : 'Change to dark');
  button.addEventListener('click', () => {
    const theme = isDark() ? 'light' : 'dark';
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem('polybolos.theme', theme); } catch { /* kept for this page only */ }
    show();
  });
  dark.addEventListener('change', show);
  show();
}
