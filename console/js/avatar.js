// A picture made here from a name: initials on a colour. The pictures' addresses are on other machines, and the console asks none.
import { el } from './dom.js';

const TONES = 8;
/** Between Arabic or Persian initials: they are two letters, not a word. */
const NO_JOIN = '\u200c';

function toneOf(text) {
  let sum = 7;
  for (const character of text) sum = (sum * 31 + character.codePointAt(0)) >>> 0;
  return sum % TONES;
}

const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' });
const firstLetter = (word) => [...segmenter.segment(word)][0]?.segment ?? '';

export function avatar(name, key = name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const initials = words.length > 1 ? firstLetter(words[0]) + NO_JOIN + firstLetter(words.at(-1)) : firstLetter(words[0] ?? '?');
  return el('span', { class: `avatar tone-${toneOf(String(key))}`, 'aria-hidden': 'true', dir: 'auto', text: initials.toLocaleUpperCase() });
}
