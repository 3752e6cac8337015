// Numbers, durations and times as people read them, in their own locale.
const locale = navigator.languages?.length ? navigator.languages : undefined;
const plain = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const fraction = new Intl.NumberFormat(locale, { maximumFractionDigits: 4 });
const significant = new Intl.NumberFormat(locale, { maximumSignificantDigits: 6 });
const oneDigit = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 });
const dateTime = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'medium' });
const dateOnly = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeZone: 'UTC' });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: 'medium' });

export const NONE = '–';
/** Between a number and its unit: narrow, and lines do not break there. */
export const THIN = '\u202f';

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
  return `${value < 10 && unit > 0 ? oneDigit.format(value) : plain.format(value)}${THIN}${units[unit]}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 10) return `${oneDigit.format(value)}${THIN}ms`;
  if (value < 1000) return `${plain.format(value)}${THIN}ms`;
  return duration(value / 1000);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${oneDigit.format(seconds)}${THIN}s`;
  const minutes = Math.floor(seconds / 60);
  const rest = Math.floor(seconds % 60);
  if (minutes < 10 && rest > 0) return `${minutes}${THIN}min ${rest}${THIN}s`;
  if (minutes < 60) return `${minutes}${THIN}min`;
  if (seconds < 172_800) return `${oneDigit.format(seconds / 3600)}${THIN}h`;
  return `${plain.format(Math.floor(seconds / 86_400))}${THIN}d`;
}

/** By the platform's clock, in whole units: "12 s ago". */
export const ago = (ms, nowMs) => (nowMs - ms < 1000 ? 'just now' : `${duration(Math.floor((nowMs - ms) / 1000))} ago`);

export const timestamp = (ms) => dateTime.format(new Date(ms));
export const date = (ms) => dateOnly.format(new Date(ms));
export const time = (ms) => clock.format(new Date(ms));

/** A value of a table: whole numbers in full, fractions to what can be read; its title has every digit. */
export function number(value) {
  const size = Math.abs(value);
  if (value !== 0 && (size >= 1e15 || size < 1e-4)) return String(value);
  return (size < 1 ? significant : fraction).format(value);
}

export function plural(n, one, many) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
