// Two minutes of every job. The first status brings all points, later ones only the newest: merged here by their second.
const POINTS = 120;

export class History {
  #points = new Map();

  add(job) {
    const known = this.#points.get(job.name) ?? [];
    const merged = new Map(known.map((point) => [point.at_ms, point]));
    for (const point of job.history ?? []) merged.set(point.at_ms, point);
    this.#points.set(job.name, [...merged.values()].sort((a, b) => a.at_ms - b.at_ms).slice(-POINTS));
  }

  of(name) {
    return this.#points.get(name) ?? [];
  }
}
