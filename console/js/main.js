// The console: one stream of events in, four views out.
import { byId, setText } from './dom.js';
import { Events } from './api.js';
import { History } from './history.js';
import { JobView, uptime } from './job_view.js';
import { RowsView } from './rows_view.js';
import { openLetters, startLetters } from './letters.js';
import { time } from './format.js';
import { showExecutors, showFeeds, showHealth, showObjects } from './cluster_view.js';
import { startTheme } from './theme.js';

startTheme(byId('theme'));
startLetters();
const history = new History();
const jobView = new JobView(openLetters);
const rowsView = new RowsView((table) => events.watch(table));
let connection = 'connecting';
let away = '';
let heardMs = null;

function showStatus(status) {
  for (const job of status.jobs) history.add(job);
  setText(byId('version'), status.version);
  rowsView.tables(status.tables);
  jobView.show(status, history, rowsView.table);
  showExecutors(status.executors);
  showObjects(status.topics, status.tables);
  showFeeds(status.feeds);
  away = showHealth(status);
  heardMs = Date.now();
  tellTrouble();
  const failed = status.jobs.filter((job) => job.state === 'failed').length;
  document.title = failed > 0 ? `⚠ ${failed} failed – Polybolos` : 'Polybolos';
  setText(byId('uptime'), uptime(status.uptime_s));
  setText(byId('leader'), leading(status.leader));
}

function leading({ is_me, door }) {
  if (is_me) return 'this scheduler leads';
  return door ? `the scheduler at ${door} leads; this one waits` : 'another scheduler leads, or none yet; this one waits';
}

function showConnection(state) {
  if (state === 'loggedOut') {
    location.replace('/');
    return;
  }
  connection = state;
  const chip = byId('chip-live');
  chip.dataset.state = state === 'live' ? 'ok' : 'away';
  setText(chip.lastChild, state === 'live' ? 'Live' : 'Offline');
  document.body.classList.toggle('stale', state !== 'live');
  tellTrouble();
}

const LOST = {
  lost: 'The platform does not answer.',
  mute: 'The platform answers, but its events do not come: perhaps as many browsers watch as it takes.',
};

function tellTrouble() {
  const since = heardMs === null ? '' : ` What you see is the state of ${time(heardMs)}.`;
  const words = connection in LOST ? `${LOST[connection]}${since} The console goes on by itself.` : away;
  const banner = byId('banner');
  banner.hidden = words === '';
  setText(banner, words);
}

const events = new Events({
  status: showStatus,
  rows: (batch) => rowsView.rows(batch),
  trouble: ({ message }) => rowsView.trouble(message),
  connection: showConnection,
});
events.watch(null);
