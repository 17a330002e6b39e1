/** The tables of the store's database, and how a file comes to have them: a new one, and one that an older flk made. */
import type { Database as Connection } from 'libsql';
import { FlkError } from '../base/errors.ts';

/** In the file's header (`user_version`). Counts up with every change that an older flk would misread. */
const schemaVersion = 2;
/** Writes take milliseconds; whoever waits longer waits for a process that was stopped. */
const busyTimeout = 60_000;

const holdTables = `
  CREATE TABLE holds (owner TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (owner, path)) STRICT, WITHOUT ROWID;
  CREATE INDEX heldPaths ON holds (path);
  CREATE TABLE collector (id INTEGER PRIMARY KEY CHECK (id = 1), owner TEXT NOT NULL) STRICT;
  PRAGMA user_version = ${schemaVersion};
`;

const schema = `
  CREATE TABLE paths (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    narHash TEXT NOT NULL,
    narSize INTEGER NOT NULL,
    deriver TEXT,
    registrationTime INTEGER NOT NULL,
    ultimate INTEGER NOT NULL,
    signatures TEXT NOT NULL,
    ca TEXT
  ) STRICT;
  CREATE TABLE refs (
    referrer INTEGER NOT NULL REFERENCES paths (id) ON DELETE CASCADE,
    reference INTEGER NOT NULL REFERENCES paths (id),
    PRIMARY KEY (referrer, reference)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX referrers ON refs (reference);
  CREATE TABLE memo (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    about TEXT,
    written INTEGER NOT NULL DEFAULT 0
  ) STRICT, WITHOUT ROWID;
  ${holdTables}
`;

/** What an older flk made has neither; that it knows nothing of them does no harm. */
const memoColumns = (now: number): string => `
  ALTER TABLE memo ADD COLUMN about TEXT;
  ALTER TABLE memo ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
  UPDATE memo SET written = ${now};
`;

const versionOf = (connection: Connection): number =>
  (connection.prepare('PRAGMA user_version').get() as { user_version: number }).user_version;

/** False of the first version, in which nothing was held. */
export const hasHolds = (connection: Connection): boolean => versionOf(connection) > 1;

/** Whether its tables can be read as they are. Throws FLK_STORE_INVALID. */
export function assertReadable(connection: Connection, file: string): void {
  const version = versionOf(connection);
  // The first version has no holds; else it is the same.
  if (version !== 1 && version !== schemaVersion) throw otherVersion(file, version);
}

function otherVersion(file: string, found: number): FlkError {
  return new FlkError('FLK_STORE_INVALID', `${file} was made by another version of flk`, {
    facts: { found: String(found), wanted: String(schemaVersion) },
    hint: 'update flk, or choose another store with --store',
  });
}

/** Makes a connection ready to write: the tables are there, as this flk knows them. Throws FLK_STORE_INVALID. */
export function prepare(connection: Connection, file: string): void {
  connection.exec(`PRAGMA busy_timeout = ${busyTimeout}`);
  if (versionOf(connection) === 0) {
    connection.exec('PRAGMA journal_mode = WAL');
    // Another process may have been first.
    transaction(connection, () => {
      if (versionOf(connection) === 0) connection.exec(schema);
    });
  }
  if (versionOf(connection) === 1)
    transaction(connection, () => {
      if (versionOf(connection) === 1) connection.exec(holdTables);
    });
  const version = versionOf(connection);
  if (version !== schemaVersion) throw otherVersion(file, version);
  if (!hasMemoColumns(connection))
    transaction(connection, () => {
      if (!hasMemoColumns(connection)) connection.exec(memoColumns(Date.now()));
    });
  // A commit is on disk before flk goes on, as everything else that flk writes.
  connection.exec('PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON');
}

const hasMemoColumns = (connection: Connection): boolean =>
  connection.prepare("SELECT 1 FROM pragma_table_info('memo') WHERE name = 'written'").get() !== undefined;

/** All of it is written, or nothing. */
export function transaction<T>(connection: Connection, work: () => T): T {
  connection.exec('BEGIN IMMEDIATE');
  try {
    const result = work();
    connection.exec('COMMIT');
    return result;
  } catch (error) {
    // A full disk ends the transaction by itself.
    if (connection.inTransaction) connection.exec('ROLLBACK');
    throw error;
  }
}
