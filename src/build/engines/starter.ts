/** Starts builders, one after the other, from one small shell; docs/sandbox.md says what they find there. */
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { FlkError } from '../../base/errors.ts';
import { Servant } from '../../base/servant.ts';
import { findTool, toolPath } from './host.ts';

/** What holds for all that one starter runs. */
export interface Bounds {
  /** Of each file that is written, in blocks of 512 bytes. */
  readonly maxFileBlocks: number;
  /** `ulimit`'s words for processes of this user, and for KiB of private memory of each. */
  readonly ulimits: readonly [processes: string, data: string];
  /** Files to which it writes 0 to enter control groups. */
  readonly entrances: readonly string[];
}

/** What is to be started. */
export interface Program {
  /** The program, absolute, and its arguments. */
  readonly argv: readonly string[];
  readonly cwd: string;
  /** Whether it has descriptor 3, on which it tells in lines what it does. */
  readonly reports: boolean;
  /** Of one that reports: up to two files, from `cwd`, that it finds open as descriptors 4 and 5, at their starts. */
  readonly inputs: readonly string[];
}

export interface EndedProgram {
  /** As a shell tells it: 128 and the signal's number for one that was killed. */
  readonly status: number;
  /** What it wrote to descriptor 3. */
  readonly report: string;
}

/**
 * Makes the pipe $1 by $2 (mkfifo), then runs a program for each request: its words, each as a number of lines and these lines, after a
 * line with their number. The words are: how many descriptors it gets, from 3; working folder; two inputs, which may be empty; the
 * program and its arguments. The answer is what the program reports, and its exit status.
 *
 * Whoever holds the other end of descriptor 3 is flk: when that is gone, all here is killed. What is the same for all programs is set at
 * once: umask, no core dumps, as many open files as programs are used to, no file larger than $3 blocks, no more processes of this user
 * than $4 and no more KiB of private memory each than $5 (`unlimited`: as it is), and the groups with the entrances that follow. One pipe
 * for stdout and stderr, so that lines keep their order.
 *
 * A program is run as a command of its own and in the foreground: for that dash needs no copy of itself, and in the background it would
 * start with SIGINT ignored. Shells name the option for processes -u or -p.
 */
const script = `
{ read -r _; kill -KILL 0; } <&3 >/dev/null &
exec 3<&-
pipe=$1
"$2" -m 600 "$pipe" || exit
umask 022; ulimit -c 0; ulimit -S -n 1024 || :; ulimit -f "$3" || :
[ "$4" = unlimited ] || ulimit -u "$4" || ulimit -p "$4" || :
[ "$5" = unlimited ] || ulimit -d "$5" || :
shift 5
for entrance do echo 0 > "$entrance" || exit; done
echo
while read -r words; do
  set --
  while [ $# -lt "$words" ]; do
    read -r lines && IFS= read -r word || exit
    while [ "$lines" -gt 1 ]; do
      IFS= read -r line || exit
      word="$word
$line"
      lines=$((lines - 1))
    done
    set -- "$@" "$word"
  done
  descriptors=$1 first=$3 second=$4
  cd -- "$2" || exit
  shift 4
  case $descriptors in
    0) "$@" >"$pipe" 2>&1 </dev/null ;;
    1) "$@" 3>&1 >"$pipe" 2>&1 </dev/null ;;
    2) "$@" 3>&1 >"$pipe" 2>&1 </dev/null 4<"$first" ;;
    3) "$@" 3>&1 >"$pipe" 2>&1 </dev/null 4<"$first" 5<"$second" ;;
  esac
  echo "$?
"
done
`;

/** Runs builders, one at a time. Where flk ends, by whatever signal, all ends that has not been led out of the shell's group. */
export class Starter {
  /** A named pipe, of which programs get the end to write to as stdout and stderr. */
  readonly output: string;
  readonly #shell: Servant;
  #isKilled = false;

  private constructor(output: string, shell: Servant) {
    this.output = output;
    this.#shell = shell;
  }

  /** `output`: where the pipe is made, in a folder that nobody else can write. Throws FLK_SANDBOX_UNAVAILABLE. */
  static async create(output: string, { maxFileBlocks, ulimits, entrances }: Bounds): Promise<Starter> {
    const mkfifo = await findTool('mkfifo');
    if (mkfifo === undefined) throw unavailable('mkfifo is not on this machine');
    const nothing = openSync('/dev/null', 'r+');
    try {
      const shell = new Servant(script, [output, mkfifo, String(maxFileBlocks), ...ulimits, ...entrances], {
        // Its own session: Ctrl-C reaches flk, which then ends the build as a whole.
        leads: true,
        env: { PATH: toolPath(), LC_ALL: 'C' },
        further: ['pipe', ...covers(nothing, 4)],
      });
      if ((await shell.ask('')) === undefined)
        throw unavailable(
          `no shell could be started that makes ${output} and keeps to the limits of a build`,
        );
      return new Starter(output, shell);
    } finally {
      closeSync(nothing);
    }
  }

  /** False once it was killed, by whomever. */
  get isAlive(): boolean {
    return !this.#isKilled && !this.#shell.isOver;
  }

  /**
   * Runs a program to its end, but for what it leaves running; undefined: it was killed with the shell. Throws FLK_BUILD_FAILED and
   * FLK_DERIVATION_INVALID for words that no program can be given.
   */
  async run({ argv, cwd, reports, inputs }: Program): Promise<EndedProgram | undefined> {
    const [first = '', second = ''] = inputs;
    const descriptors = String(reports ? 1 + inputs.length : 0);
    const answer = await this.#shell.ask(request([descriptors, cwd, first, second, ...argv]));
    const status = answer?.pop();
    if (answer === undefined || status === undefined) return undefined;
    return { status: Number(status), report: answer.join('\n') };
  }

  /** Ends it and what it runs. */
  kill(): void {
    this.#isKilled = true;
    this.#shell.kill();
  }
}

/** Linux hands over 128 KiB in one argument, its end included, and 6 MiB in all, or less where the stack is small: execve(2). */
const maxWord = 128 * 1024 - 1;
const maxWords = 6 * 1024 * 1024;

function request(words: readonly string[]): Buffer {
  const parts = words.map((word) => Buffer.from(word));
  if (parts.some((part) => part.includes(0)))
    throw new FlkError('FLK_DERIVATION_INVALID', 'no argument of a builder can hold NUL');
  if (
    parts.some(({ length }) => length > maxWord) ||
    parts.reduce((sum, { length }) => sum + length, 0) > maxWords
  )
    throw new FlkError('FLK_BUILD_FAILED', 'the builder could not be started', {
      facts: { status: 'its arguments are too long' },
      hint: 'an argument holds at most 128 KiB: put what is longer into a file of src',
    });
  const lines = words.flatMap((word, i) => [`${word.split('\n').length}\n`, parts[i]!, '\n']);
  return Buffer.concat([`${words.length}\n`, ...lines].map((line) => Buffer.from(line)));
}

const unavailable = (reason: string): FlkError => new FlkError('FLK_SANDBOX_UNAVAILABLE', reason);

/**
 * Descriptors that flk itself was started with and knows nothing of (a CI job's, a make's) would reach the builder, and one of
 * them may be a folder of the host: /dev/null takes their places, from `first` up.
 */
function covers(nothing: number, first: number): (number | 'ignore')[] {
  // What Node opens later ends with the exec: one look is enough.
  inherited ??= readdirSync('/proc/self/fdinfo')
    .map(Number)
    .filter((fd) => fd > 2 && fd <= maxDescriptor && !isClosedOnExec(fd));
  const places: (number | 'ignore')[] = [];
  for (const fd of inherited) {
    if (fd < first) continue;
    while (places.length < fd - first) places.push('ignore');
    places[fd - first] = nothing;
  }
  return places;
}

let inherited: readonly number[] | undefined;

/** A number so high needs a raised limit; nobody hands such a descriptor on by accident. */
const maxDescriptor = 65_536;

/** Whether it ends with the next exec, as all do that Node opens. Format: proc(5), fdinfo. */
function isClosedOnExec(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
    return (Number.parseInt(flags?.[1] ?? '0', 8) & 0o2000000) !== 0;
  } catch {
    // It was the listing's own and is closed by now.
    return true;
  }
}
