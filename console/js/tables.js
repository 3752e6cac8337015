// What can be shown of a table, by its connector.

/** Connectors whose tables take rows and keep none. */
const KEEP_NONE = new Set(['blackhole', 'print']);
/** Connectors whose tables are only written. */
const ONLY_WRITTEN = new Set([...KEEP_NONE, 'upsert-kafka']);

export const canBeRead = (table) => !ONLY_WRITTEN.has(table.connector);
export const keepsRows = (table) => !KEEP_NONE.has(table.connector);
const isKeyed = (table) => table.connector === 'cassandra';

/** Those that can be read first, then those that jobs write, then those with a key. */
export function forReading(tables) {
  const last = (table) => [!canBeRead(table), !table.written_by, !isKeyed(table)].map(Number).join('');
  return [...tables].sort((a, b) => last(a).localeCompare(last(b)) || a.name.localeCompare(b.name));
}

/** "blackhole keeps no rows", "blackhole and print keep no rows". */
export function keepNoRows(tables) {
  const connectors = [...new Set(tables.map((table) => table.connector))];
  return `${connectors.join(' and ')} ${connectors.length === 1 ? 'keeps' : 'keep'} no rows`;
}
