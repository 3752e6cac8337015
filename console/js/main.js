// The console: one stream of events in, four views out.
import { byId, setText } from './dom.js';
import { Events } from './api.js';
import { History } from './history.js';
import { JobView, uptime } from './job_view.js';
import { RowsView } from './rows_view.js';
import { openLetters, startLetters } from './letters.js';
import { showExecutors, showHealth, showObjects } from './cluster_view.js';
import { startTheme } from './theme.js';

startTheme(byId('theme'));
startLetters();
const history = new History();
const jobView = new JobView(openLetters);
const rowsView = new RowsView((table) => events.watch(table));

function showStatus(status) {
  for (const job of status.jobs) history.add(job);
  setText(byId('version'), status.version);
  rowsView.tables(status.tables);
  jobView.show(status, history, rowsView.table);
  showExecutors(status.executors);
  showObjects(status.topics, status.tables);
  showHealth(status);
  setText(byId('uptime'), uptime(status.uptime_s));
  setText(byId('leader'), leading(status.leader));
}

function leading({ is_me, door }) {
  if (is_me) return 'this scheduler leads';
  return door ? `the scheduler at ${door} leads; this one waits` : 'another scheduler leads, or none yet; this one waits';
}

function showConnection(state) {
  const banner = byId('banner');
  const chip = byId('chip-live');
  chip.dataset.state = state === 'live' ? 'ok' : 'away';
  setText(chip.lastChild, state === 'live' ? 'Live' : 'Offline');
  document.body.classList.toggle('stale', state !== 'live');
  if (state === 'loggedOut') {
    location.replace('/');
    return;
  }
  banner.hidden = state === 'live';
  setText(banner, state === 'live' ? '' : 'The platform does not answer. What you see is the last known state; the console goes on by itself when it is back.');
}

const events = new Events({
  status: showStatus,
  rows: (batch) => rowsView.rows(batch),
  trouble: ({ message }) => rowsView.trouble(message),
  connection: showConnection,
});
events.watch(null);
