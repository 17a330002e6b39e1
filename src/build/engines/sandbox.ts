/** The port behind which a command is shut into a view: bubblewrap, or util-linux. */
import type { View } from './view.ts';

/** A command as it runs inside. */
export interface Inside {
  /** The program, absolute, and its arguments. */
  readonly argv: readonly string[];
  /** All of its environment (names hold no `=`); undefined: that of the process that starts it. */
  readonly env?: ReadonlyMap<string, string>;
  readonly cwd: string;
}

/** A command of the host that shuts another one in and then becomes it, or waits for it. */
export interface Confined {
  readonly program: string;
  readonly args: readonly string[];
  /** To be read from file descriptors 4 and 5, each from its start. Bytes are the same for many commands, text is not. */
  readonly inputs: readonly (string | Uint8Array)[];
  /** From all that was written to file descriptor 3: whether the inner command was started at all. Absent: there is nothing to ask. */
  readonly started?: (report: string) => boolean;
}

export interface Sandbox {
  readonly name: 'bubblewrap' | 'unshare';
  /** `folder` is a fresh one, for this command alone, where the sandbox may put what it needs. */
  confine(view: View, folder: string, inside: Inside): Promise<Confined>;
}

/** How a confined command ended. */
export interface Ended {
  /** Exit status as a shell tells it; `SIGKILL` where it was ended with the shell that had started it. */
  readonly status: number | 'SIGKILL';
  /** What the program wrote to descriptor 3. */
  readonly report: string;
  /** The last lines of its output. */
  readonly lastLines: readonly string[];
}
