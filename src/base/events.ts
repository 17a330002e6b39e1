/**
 * What happens, as data. The core emits events; `report/` folds them into text. Events are JSON-safe, carry no prose and no
 * colour, and are documented by schemas/event.schema.json.
 */

/** A span of work a person may wait for. */
export type Activity =
  | { readonly type: 'lock'; readonly flake: string }
  /** Asking a server what a ref, the tags or the length of the history of a repository are. */
  | { readonly type: 'resolve'; readonly subject: string }
  /** Moving bytes from another place into the cache, hashing them on the way. Progress in bytes or objects. */
  | { readonly type: 'fetch'; readonly subject: string }
  /** Computing a NAR hash of something local. Progress in bytes. */
  | { readonly type: 'hash'; readonly subject: string }
  /** Writing a tree into the store. Progress in bytes. */
  | { readonly type: 'add'; readonly subject: string }
  | { readonly type: 'unpack'; readonly subject: string }
  /** Packing a path and putting it into a binary cache. */
  | { readonly type: 'push'; readonly subject: string }
  | {
      readonly type: 'build';
      readonly name: string;
      readonly drvPath: string;
      /** As its engine is called: `local`, `nix`, `remote grpc://host:port`. */
      readonly builder: string;
    }
  /** Finding out what of a store is in use. Progress in objects: roots. */
  | { readonly type: 'find-roots'; readonly store: string }
  /** Removing what is not in use. Progress in bytes of NAR. */
  | { readonly type: 'sweep'; readonly paths: number };

export type ProgressUnit = 'bytes' | 'objects' | 'files';

export type Notice =
  /** A repository's working tree has changes that are not committed. */
  | { readonly type: 'dirty-tree'; readonly path: string }
  | { readonly type: 'untracked'; readonly path: string }
  | { readonly type: 'host-toolchain'; readonly packages: readonly string[] }
  | { readonly type: 'no-sandbox'; readonly reason: string }
  | { readonly type: 'unused-override'; readonly input: string }
  /** An update was asked for of what is no input, or follows another. */
  | { readonly type: 'unused-update'; readonly input: string }
  /** A flake in the root's own tree declares other inputs now, and by Nix's rules that goes unnoticed. */
  | { readonly type: 'outdated-relative'; readonly input: string }
  | {
      readonly type: 'retry';
      readonly subject: string;
      readonly attempt: number;
      readonly delayMs: number;
      readonly reason: string;
    }
  /** A netrc file holds passwords and anybody on the machine may read it. */
  | { readonly type: 'netrc-readable'; readonly path: string }
  /** A forge answers for a repository under another name than it was asked for. */
  | { readonly type: 'repository-moved'; readonly from: string; readonly to: string }
  /** What is written down may mean something else tomorrow. */
  | { readonly type: 'not-locked'; readonly flake: string }
  /** A server could not be asked, so its last answer counts. */
  | { readonly type: 'old-answer'; readonly subject: string; readonly reason: string }
  /** A flake.lock whose inputs the store keeps cannot be read: conflict markers, perhaps. */
  | { readonly type: 'unread-lock'; readonly path: string }
  /** A binary cache is left alone for the rest of this run. */
  | { readonly type: 'cache-unreachable'; readonly cache: string; readonly reason: string }
  /** A binary cache has a path, but no key that is trusted signed it. Told once for each cache. */
  | {
      readonly type: 'cache-untrusted';
      readonly cache: string;
      readonly path: string;
      readonly signed: boolean;
    }
  /** A builder is left alone for a while; what it was to build goes to the next one. */
  | { readonly type: 'builder-unavailable'; readonly builder: string; readonly reason: string }
  /** What was built is not in a binary cache where it should be; the command tries again. */
  | {
      readonly type: 'push-failed';
      readonly cache: string;
      readonly paths: readonly string[];
      readonly reason: string;
      readonly command: string;
    }
  /** What was built with this machine's own programs is pushed nowhere. */
  | { readonly type: 'push-skipped'; readonly paths: readonly string[] }
  /** A file holds a secret key and anybody on the machine may read it. */
  | { readonly type: 'key-readable'; readonly path: string }
  | { readonly type: 'ci-locked' }
  | { readonly type: 'lock-written'; readonly path: string };

export type Event =
  | { readonly kind: 'start'; readonly id: number; readonly parent?: number; readonly activity: Activity }
  | {
      readonly kind: 'progress';
      readonly id: number;
      readonly done: number;
      readonly total?: number;
      readonly unit: ProgressUnit;
    }
  | { readonly kind: 'end'; readonly id: number; readonly outcome: 'ok' | 'failed' | 'cached' }
  /** A line a builder or a remote printed. */
  | { readonly kind: 'log'; readonly id: number; readonly line: string }
  | { readonly kind: 'notice'; readonly notice: Notice }
  /** A client of flk's own server had its answer, or has gone. */
  | {
      readonly kind: 'request';
      readonly method: string;
      /** From the slash on, decoded. */
      readonly address: string;
      readonly status: number;
      /** Of the answer's body. */
      readonly bytes: number;
      readonly ms: number;
      /** The answer was cut off. */
      readonly broken?: true;
      /** What went wrong on this side. */
      readonly fault?: string;
    };

export interface Reporter {
  emit(event: Event): void;
}

/** For library use and tests: nobody listens. */
export const silent: Reporter = { emit: () => {} };

let lastId = 0;

/** The running end of a span: report progress, log lines, and start children below it. */
export interface Span {
  readonly id: number;
  progress(done: number, total: number | undefined, unit: ProgressUnit): void;
  log(line: string): void;
  /** Ends as `cached` instead of `ok`: nothing had to be done. */
  cached(): void;
}

/** Runs `work` between a start and an end event; the end tells whether it threw. */
export async function span<T>(
  reporter: Reporter,
  activity: Activity,
  work: (span: Span) => Promise<T>,
  parent?: number,
): Promise<T> {
  const id = ++lastId;
  let outcome: 'ok' | 'failed' | 'cached' = 'ok';
  reporter.emit(
    parent === undefined ? { kind: 'start', id, activity } : { kind: 'start', id, parent, activity },
  );
  try {
    return await work({
      id,
      progress: (done, total, unit) =>
        reporter.emit(
          total === undefined
            ? { kind: 'progress', id, done, unit }
            : { kind: 'progress', id, done, total, unit },
        ),
      log: (line) => reporter.emit({ kind: 'log', id, line }),
      cached: () => {
        outcome = 'cached';
      },
    });
  } catch (error) {
    outcome = 'failed';
    throw error;
  } finally {
    reporter.emit({ kind: 'end', id, outcome });
  }
}
