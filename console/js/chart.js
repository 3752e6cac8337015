// A small time chart in SVG: lines or stacked areas over the last two minutes, a crosshair with values, colours from CSS variables.
import { el, svg, setText } from './dom.js';
import { NONE, time } from './format.js';

/** A chart without a legend is as high as one with it. */
const HEIGHT = { alone: 194, withLegend: 144 };
const PAD = { top: 10, right: 10, bottom: 22, left: 46 };
const WINDOW_MS = 120_000;
const TICKS = 3;
const TIP_GAP = 10;

/** The next 1, 2, 4 or 5 times a power of ten: the axis is calm while values move, and its half is a short number too. */
function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 4, 5, 10].find((candidate) => candidate * power >= value);
  return step * power;
}

export class Chart {
  #figure; #plot; #areas; #grid; #cross; #tip; #legend; #total; #series; #format; #stacked; #points = []; #now = 0; #width = 0; #hover = null; #label; #height; #least; #words;

  /** `series`: `[{label, color, value(point)}]`, bottom first when stacked; the axis reaches at least to `least`; `words` has the unit if `format` has not. */
  constructor(figure, { label, series, format, words = format, stacked = false, least = 1 }) {
    this.#figure = figure;
    this.#series = series;
    this.#format = format;
    this.#words = (value) => (value === null ? NONE : words(value));
    this.#stacked = stacked;
    this.#label = label;
    this.#least = least;
    this.#height = series.length > 1 ? HEIGHT.withLegend : HEIGHT.alone;
    this.#grid = svg('g', { class: 'grid' });
    this.#areas = svg('g');
    this.#cross = svg('line', { class: 'cross', y1: PAD.top, y2: this.#height - PAD.bottom, visibility: 'hidden' });
    this.#plot = svg('svg', { role: 'img', tabindex: 0, height: this.#height, width: '100%' }, this.#grid, this.#areas, this.#cross);
    this.#tip = el('div', { class: 'tip', hidden: true });
    this.#total = el('span', { class: 'now', text: NONE });
    figure.querySelector('figcaption').append(this.#total);
    this.#legend = el('ul', { class: 'legend', hidden: series.length < 2 }, ...series.map((one) =>
      el('li', {}, el('i', { class: one.color, 'aria-hidden': 'true' }), one.label, el('b', { text: NONE }))));
    figure.append(el('div', { class: 'plot' }, this.#plot, this.#tip), this.#legend);
    for (const name of ['pointerdown', 'pointermove']) this.#plot.addEventListener(name, (event) => this.#look(event.offsetX));
    for (const name of ['pointerleave', 'blur']) this.#plot.addEventListener(name, () => this.#look(null));
    this.#plot.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(([entry]) => { this.#width = Math.floor(entry.contentRect.width); this.#draw(); }).observe(this.#plot);
  }

  show(points, nowMs) {
    this.#points = points.filter((point) => point.at_ms > nowMs - WINDOW_MS - 1000);
    this.#now = nowMs;
    const last = this.#points.at(-1);
    const sum = last ? this.#series.reduce((total, one) => total + (one.value(last) || 0), 0) : null;
    setText(this.#total, this.#words(sum));
    [...this.#legend.children].forEach((item, i) => setText(item.lastChild, last ? this.#format(this.#series[i].value(last)) : NONE));
    this.#plot.setAttribute('aria-label', `${this.#label}: now ${this.#words(sum)}`);
    this.#draw();
  }

  #look(x) {
    this.#hover = x;
    this.#drawCross();
  }

  /** Arrows walk along the points, beginning with the newest. */
  #key(event) {
    const last = this.#points.length - 1;
    if (event.key === 'Escape') return this.#look(null);
    if (last < 0) return;
    const at = this.#hover === null ? last + 1 : this.#points.indexOf(this.#nearest(this.#hover));
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#look(this.#x(this.#points[Math.min(Math.max(to, 0), last)].at_ms));
  }

  #x(ms) {
    return PAD.left + (1 - (this.#now - ms) / WINDOW_MS) * (this.#width - PAD.left - PAD.right);
  }

  #draw() {
    if (!this.#width) return;
    const bottom = this.#height - PAD.bottom;
    const heights = this.#points.map((point) => this.#stacked
      ? this.#series.reduce((sum, one) => sum + (one.value(point) || 0), 0)
      : Math.max(...this.#series.map((one) => one.value(point) || 0)));
    const top = niceCeiling(Math.max(this.#least, ...heights));
    const y = (value) => bottom - (value / top) * (bottom - PAD.top);

    this.#grid.replaceChildren();
    for (let tick = 0; tick < TICKS; tick += 1) {
      const value = (top * tick) / (TICKS - 1);
      this.#grid.append(
        svg('line', { x1: PAD.left, x2: this.#width - PAD.right, y1: y(value), y2: y(value) }),
        svg('text', { x: PAD.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, this.#format(value)));
    }
    for (const [ago, text, anchor] of [[WINDOW_MS, '2 min ago', 'start'], [WINDOW_MS / 2, '1 min ago', 'middle'], [0, 'now', 'end']]) {
      this.#grid.append(svg('text', { x: this.#x(this.#now - ago), y: this.#height - 5, 'text-anchor': anchor }, text));
    }
    if (this.#points.length === 0) {
      this.#areas.replaceChildren(svg('text', { class: 'nothing', x: this.#width / 2, y: this.#height / 2 - 4, 'text-anchor': 'middle' }, 'Nothing measured yet'));
      this.#drawCross();
      return;
    }
    let floor = this.#points.map(() => 0);
    const shapes = [];
    for (const one of this.#series) {
      const ceiling = this.#points.map((point, i) => (this.#stacked ? floor[i] : 0) + (one.value(point) || 0));
      const line = this.#points.map((point, i) => `${this.#x(point.at_ms).toFixed(1)},${y(ceiling[i]).toFixed(1)}`);
      const back = this.#points.map((point, i) => `${this.#x(point.at_ms).toFixed(1)},${y(this.#stacked ? floor[i] : 0).toFixed(1)}`).reverse();
      shapes.push(svg('path', { class: `area ${one.color}`, d: `M${line.join('L')}L${back.join('L')}Z` }));
      if (!this.#stacked) shapes.push(svg('path', { class: `line ${one.color}`, d: `M${line.join('L')}` }));
      if (this.#stacked) floor = ceiling;
    }
    this.#areas.replaceChildren(...shapes);
    this.#drawCross();
  }

  #drawCross() {
    const point = this.#hover === null ? null : this.#nearest(this.#hover);
    if (!point) {
      this.#cross.setAttribute('visibility', 'hidden');
      this.#tip.hidden = true;
      return;
    }
    const x = this.#x(point.at_ms);
    this.#cross.setAttribute('x1', x);
    this.#cross.setAttribute('x2', x);
    this.#cross.setAttribute('visibility', 'visible');
    const line = (label, value, color) => el('div', {}, color ? el('i', { class: color }) : null, el('span', { text: label }), el('b', { text: this.#words(value) }));
    // As the areas lie, the topmost first.
    const lines = this.#series.map((one) => line(one.label, one.value(point) ?? null, one.color)).reverse();
    if (this.#stacked) lines.unshift(line('total', this.#series.reduce((sum, one) => sum + (one.value(point) || 0), 0)));
    this.#tip.replaceChildren(el('time', { text: time(point.at_ms) }), ...lines);
    this.#tip.hidden = false;
    // Beside the line, not over it.
    const wide = this.#tip.offsetWidth;
    this.#tip.style.left = `${x + TIP_GAP + wide <= this.#width ? x + TIP_GAP : Math.max(x - TIP_GAP - wide, 0)}px`;
  }

  #nearest(x) {
    let best = null;
    for (const point of this.#points) {
      if (!best || Math.abs(this.#x(point.at_ms) - x) < Math.abs(this.#x(best.at_ms) - x)) best = point;
    }
    return best;
  }
}
