// Numbers, durations and times as people read them, in their own locale.
const locale = navigator.languages?.length ? navigator.languages : undefined;
const plain = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 });
const dateTime = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'medium' });
const dateOnly = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeZone: 'UTC' });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: 'medium' });

export const NONE = '–';

export function count(value) {
  if (value === null || value === undefined) return NONE;
  return Math.abs(value) < 100_000 ? plain.format(value) : compact.format(value);
}

/** All digits: offsets and ids must be readable exactly. */
export const exact = (value) => plain.format(value);

export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value < 10 && value > 0 ? oneDigit.format(value) : count(Math.round(value));
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value < 10 && unit > 0 ? oneDigit.format(value) : plain.format(value)} ${units[unit]}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 10) return `${oneDigit.format(value)} ms`;
  if (value < 1000) return `${plain.format(value)} ms`;
  return duration(value / 1000);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${oneDigit.format(seconds)} s`;
  if (seconds < 3600) return `${plain.format(Math.floor(seconds / 60))} min`;
  if (seconds < 172_800) return `${oneDigit.format(seconds / 3600)} h`;
  return `${plain.format(Math.floor(seconds / 86_400))} d`;
}

export const timestamp = (ms) => dateTime.format(new Date(ms));
export const date = (ms) => dateOnly.format(new Date(ms));
export const time = (ms) => clock.format(new Date(ms));

/** One decimal, for coordinates and measurements. */
export function number(value) {
  return Number.isInteger(value) ? plain.format(value) : new Intl.NumberFormat(locale, { maximumSignificantDigits: 6 }).format(value);
}

export function plural(n, one, many) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
