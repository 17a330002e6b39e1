/** `flk develop`: a shell to work on a package, or the one that a flake declares. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { FlkError } from '../../base/errors.ts';
import { quote } from '../../base/process.ts';
import {
  type DevelopEnvironment,
  developEnvironment,
  exportScript,
  functionScript,
  shellPackage,
  variablesIn,
} from '../../build/develop.ts';
import { findTool } from '../../build/engines/host.ts';
import { enterStore, isAtHome } from '../../build/enter.ts';
import { type InstantiatedPackage, instantiate } from '../../build/instantiate.ts';
import type { PlannedDerivation } from '../../build/instantiation.ts';
import { type PhaseName, phaseNames } from '../../flake/manifest-model.ts';
import type { StorePath } from '../../formats/store-path.ts';
import { type OpenedFlake, openOne, realisePackages } from '../building.ts';
import type { Context } from '../context.ts';
import { chosenEnvironment, commandOf, personalShell, runForeground } from '../foreground.ts';
import { hostSystem, packageOf, parseTarget, shellOf, type Target, withShell } from '../targets.ts';
import { printEnvironment } from './print-env.ts';

export async function runDevelop(context: Context): Promise<number> {
  const env = chosenEnvironment(context);
  const wish = wishOf(context);
  const target = parseTarget(context.args[0] ?? '.', hostSystem());
  const opened = await openOne(context, target.flake);
  const { planned, kind } = await planOf(opened, target);
  const references = await realiseInputs(context, planned);
  const store = await context.store();
  const cores = context.flags.cores || availableParallelism();
  const environment = developEnvironment(store, derivationOf(planned), kind, cores);
  if (wish.kind === 'print') {
    await printEnvironment(context, opened, environment, references);
    return 0;
  }
  const phase = wish.kind === 'phase' ? wish.phase : undefined;
  if (phase !== undefined && !hasPhase(environment, phase))
    throw new FlkError('FLK_PACKAGE_INVALID', `${environment.name} has no ${phase}`, {
      hint: kind === 'shell' ? 'name the package: flk develop #NAME --build' : 'flake.yaml says which it has',
    });
  return await start(context, environment, wish, env);
}

type Wish =
  | { readonly kind: 'shell' | 'print' }
  | { readonly kind: 'command'; readonly command: readonly string[] }
  | { readonly kind: 'phase'; readonly phase: PhaseName };

/** What is to be done in the environment. Throws FLK_USAGE where that is two things. */
function wishOf(context: Context): Wish {
  const { flags } = context;
  const wishes: Wish[] = [];
  const command = commandOf(context);
  if (command !== undefined) wishes.push({ kind: 'command', command });
  for (const name of ['unpack', 'configure', 'build', 'check', 'install'] as const)
    if (flags[name]) wishes.push({ kind: 'phase', phase: `${name}Phase` });
  if (flags.phase !== undefined) wishes.push({ kind: 'phase', phase: phaseNamed(flags.phase) });
  if (flags['print-env'] || flags.json) wishes.push({ kind: 'print' });
  if (flags.json && !flags['print-env'])
    throw new FlkError('FLK_USAGE', '--json says how to print the environment', { hint: 'add --print-env' });
  if (wishes.length > 1)
    throw new FlkError('FLK_USAGE', 'a command, a phase and --print-env exclude each other', {
      hint: 'leave all but one out; -c sh -c "unpackPhase && …" has no functions, a shell without -c has',
    });
  return wishes[0] ?? { kind: 'shell' };
}

function phaseNamed(text: string): PhaseName {
  const found = phaseNames.find((name) => name === text || name === `${text}Phase`);
  if (found !== undefined) return found;
  throw new FlkError('FLK_USAGE', `there is no phase ${text}`, {
    hint: phaseNames.map((name) => name.slice(0, -'Phase'.length)).join(', '),
  });
}

/** The runner unpacks by itself where nothing says how. */
const hasPhase = ({ variables, kind }: DevelopEnvironment, phase: PhaseName): boolean =>
  kind === 'package' &&
  (variables.has(phase) || (phase === 'unpackPhase' && (variables.has('src') || variables.has('patches'))));

async function planOf(
  opened: OpenedFlake,
  target: Target,
): Promise<{ planned: InstantiatedPackage; kind: DevelopEnvironment['kind'] }> {
  const { manifest } = opened.root;
  const shell = shellOf(target, manifest, opened.system);
  if (shell !== undefined) {
    const extended = withShell(manifest, await shellPackage(opened, opened.system, shell));
    const context = { ...opened, root: { ...opened.root, manifest: extended.manifest } };
    return { planned: await instantiate(context, { inputs: [], name: extended.name }), kind: 'shell' };
  }
  const planned = await instantiate(opened, packageOf(target, opened));
  if (planned.declaration.kind !== 'build')
    throw new FlkError('FLK_PACKAGE_INVALID', `${planned.declaration.name} is not built by phases`, {
      hint: 'flk shell gives its programs; flk develop is for what has an environment to be built in',
    });
  return { planned, kind: 'package' };
}

function derivationOf({ derivations, top }: InstantiatedPackage): PlannedDerivation {
  const planned = derivations.get(top);
  if (planned === undefined) throw new FlkError('FLK_INTERNAL', `${top} was not planned`);
  return planned;
}

/** Makes everything valid that a derivation is built with; gives those paths. */
async function realiseInputs(context: Context, planned: InstantiatedPackage): Promise<StorePath[]> {
  const { derivation } = derivationOf(planned);
  const store = await context.store();
  const sources = derivation.inputSrcs;
  store.hold(sources);
  const needed = [...derivation.inputDrvs].map(([drvPath, outputs]) => ({
    ...planned,
    top: drvPath,
    outputs,
  }));
  const made = Promise.all(
    sources.map(async (path) => {
      if (store.query(path) === undefined) await planned.sources.get(path)?.();
    }),
  );
  const results = await realisePackages(context, needed);
  await made;
  const references = [...sources];
  for (const [at, result] of results.entries()) {
    if (result.status === 'rejected') throw result.reason;
    for (const output of needed[at]!.outputs) references.push(result.value.outputs.get(output)!);
  }
  return references;
}

/** Starts the shell or command, and takes away what it was started with. */
async function start(
  context: Context,
  environment: DevelopEnvironment,
  wish: Exclude<Wish, { kind: 'print' }>,
  given: NodeJS.ProcessEnv,
): Promise<number> {
  const store = await context.store();
  const folder = await mkdtemp(join(tmpdir(), 'flk-develop-'));
  try {
    const variables = variablesIn(environment, context.cwd);
    const base = baseOf(environment, given, context.flags['ignore-env']);
    const names = environment.name;
    const env: NodeJS.ProcessEnv = {
      ...base,
      ...Object.fromEntries(variables),
      PATH: [...environment.path, ...(base.PATH === undefined ? [] : [base.PATH])].join(delimiter),
      FLK_SHELL: base.FLK_SHELL === undefined ? names : `${names} ${base.FLK_SHELL}`,
    };
    const script = startScript(environment, variables);
    const { argv, extra } = await startOf(context, wish, script, folder, env);
    if (wish.kind === 'shell' && context.interactive && !context.flags.quiet)
      context.report.say(`a shell for ${names}; exit leaves it`);
    const [command, ...args] = argv;
    return await runForeground(
      context,
      (await isAtHome(store)) ? { command: command!, args } : await enterStore(store, argv, context.cwd),
      { ...env, ...extra },
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What of the environment flk is started in stays; with --ignore-env, what the phases runner sets takes its place. */
function baseOf(
  { hasToolchain, kind, variables }: DevelopEnvironment,
  given: NodeJS.ProcessEnv,
  isPure: boolean,
): NodeJS.ProcessEnv {
  if (!isPure) return given;
  const own = kind === 'package' ? { TZ: 'UTC', LC_ALL: 'C' } : {};
  const set = Object.fromEntries(Object.entries(own).filter(([name]) => !variables.has(name)));
  const path = hasToolchain ? {} : { PATH: '/bin:/usr/bin:/sbin:/usr/sbin' };
  return { ...path, ...set, ...given };
}

/** After the person's own start-up files: what they may have set otherwise, the phases, the hook. */
function startScript(environment: DevelopEnvironment, variables: ReadonlyMap<string, string>): string {
  return [
    exportScript(environment.path, variables),
    environment.kind === 'package' ? functionScript() : '',
    environment.shellHook === undefined ? '' : `eval ${quote(environment.shellHook)}\n`,
  ].join('');
}

interface Start {
  readonly argv: readonly string[];
  /** Further variables. */
  readonly extra: NodeJS.ProcessEnv;
}

async function startOf(
  context: Context,
  wish: Exclude<Wish, { kind: 'print' }>,
  script: string,
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<Start> {
  const file = join(folder, 'start');
  const runner = (await findTool('bash')) ?? '/bin/sh';
  const run = async (text: string, args: readonly string[] = []): Promise<Start> => {
    await writeFile(file, text);
    return { argv: [runner, file, ...args], extra: {} };
  };
  switch (wish.kind) {
    case 'command':
      return await run(`${script}${commandScript}`, wish.command);
    case 'phase':
      return await run(`${script}set -e\n${wish.phase}\n`);
    case 'shell':
      break;
  }
  const shell = personalShell(context.env);
  switch (basename(shell)) {
    case 'bash':
      // Where its input is no terminal, bash reads BASH_ENV instead, and no ~/.bashrc.
      await writeFile(
        file,
        `${restored('BASH_ENV', env)}[ -z "\${PS1-}" ] || [ ! -e ~/.bashrc ] || . ~/.bashrc\n${script}`,
      );
      return { argv: [shell, '--rcfile', file], extra: { BASH_ENV: file } };
    case 'zsh': {
      const own = env.ZDOTDIR ?? env.HOME;
      const read = (name: string): string =>
        own === undefined ? '' : `[ ! -e ${quote(join(own, name))} ] || . ${quote(join(own, name))}\n`;
      // Where its input is no terminal, zsh reads no .zshrc.
      await writeFile(file, `${restored('ZDOTDIR', env)}${script}`);
      const quiet = `[[ -o interactive ]] || . ${quote(file)}\n`;
      await writeFile(join(folder, '.zshenv'), `${read('.zshenv')}${quiet}`);
      await writeFile(join(folder, '.zshrc'), `${restored('ZDOTDIR', env)}${read('.zshrc')}${script}`);
      return { argv: [shell], extra: { ZDOTDIR: folder } };
    }
    case 'sh':
    case 'dash':
    case 'ksh':
    case 'mksh':
    case 'ash': {
      const own = env.ENV === undefined ? '' : '[ ! -e "$ENV" ] || . "$ENV"\n';
      await writeFile(file, `${restored('ENV', env)}${own}${script}`);
      return { argv: [shell], extra: { ENV: file } };
    }
    default:
      // A shell of another language gets the variables, and what the hook exports; functions it cannot have.
      return await run(`${script}exec "$@"\n`, [shell]);
  }
}

/** Runs its arguments: a program, or one of the functions that a package's shell has. */
const commandScript = `case "$1" in
  unpackPhase | configurePhase | buildPhase | checkPhase | installPhase | buildAll)
    if command -v "$1" >/dev/null; then "$@"; exit; fi ;;
esac
if ! command -v -- "$1" >/dev/null; then
  printf 'flk develop: there is no program %s\\n' "$1" >&2
  exit 127
fi
exec "$@"
`;

/** Text that gives a variable back what it was, after it has led a shell to its start-up file. */
function restored(name: 'BASH_ENV' | 'ENV' | 'ZDOTDIR', env: NodeJS.ProcessEnv): string {
  const value = env[name];
  return value === undefined ? `unset ${name}\n` : `${name}=${quote(value)}\n`;
}
