// The login page: says so when a token was refused, and keeps the refused token out of the address bar.
const query = new URLSearchParams(location.search);
if (query.has('token')) {
  document.getElementById('refused').hidden = false;
  history.replaceState(null, '', '/');
}
document.getElementById('token').focus();
