/** The commands as one table: what each takes and what its help says; options.ts has the options that they share. */
import type { OptionName } from './options.ts';

export interface CommandRow {
  /** The arguments as help shows them. */
  readonly args: string;
  /** How many arguments it takes; no `max`: any number. */
  readonly min: number;
  readonly max?: number;
  /** Takes what stands after `--` as it is. */
  readonly rest?: true;
  readonly summary: string;
  /** Further lines of help. */
  readonly details: string;
  readonly options: readonly OptionName[];
}

export const common = ['help', 'quiet', 'json', 'log-format'] as const satisfies readonly OptionName[];
export const network = ['offline', 'refresh', 'store'] as const satisfies readonly OptionName[];
/** For whatever looks names up and locks. */
const sources = [
  'manifest',
  'inputs-from',
  'override-flake',
  'no-registries',
  'allow-dirty',
  'allow-dirty-locks',
  'impure',
  'no-rev-count',
] as const satisfies readonly OptionName[];
const writing = [
  'commit-lock-file',
  'no-write-lock-file',
  'output-lock-file',
] as const satisfies readonly OptionName[];
export const locking = [
  'locked',
  'frozen',
  'no-update-lock-file',
  'override-input',
  'update-input',
  'recreate-lock-file',
  'reference-lock-file',
  ...writing,
  ...sources,
] as const satisfies readonly OptionName[];
const editing = ['flake', ...sources, ...network] as const satisfies readonly OptionName[];
const substituting = [
  'substituters',
  'trusted-public-keys',
  'substitute',
] as const satisfies readonly OptionName[];
const buildingOne = [
  ...substituting,
  'push-to',
  'push',
  'allow-host',
  'print-build-logs',
  'builders',
  'no-sandbox',
  'max-jobs',
  'cores',
  'timeout',
  'max-silent-time',
  'max-memory',
  'max-processes',
  'keep-failed',
] as const satisfies readonly OptionName[];
export const building = ['keep-going', ...buildingOne] as const satisfies readonly OptionName[];
const environment = [
  'ignore-env',
  'keep-env-var',
  'unset-env-var',
  'set-env-var',
] as const satisfies readonly OptionName[];

/** One line for each of its commands. */
const storeDetails = [
  'add [-n NAME] [--mode nar|flat|text] PATH…    put files or folders in, and print where they are',
  'path-info [-rsS] [--sigs] [--all] PATH…       what is known of paths; --json has the shape of nix path-info --json',
  'ls [-ldR] PATH                                what lies in a path, or below it',
  'cat PATH                                      a file in a path',
  'references PATH…, referrers [-r] PATH…        what they refer to, and what refers to them',
  'requisites PATH…                              they and all that they refer to, references first',
  'path-from-hash-part HASH-PART                 the path with these 32 characters',
  'export [-r] PATH… > FILE                      paths as nix-store --export writes them; -r: with all they refer to',
  'import [--no-check-sigs] < FILE               paths that flk store export or nix-store --export wrote',
  'dump-path PATH > NAR, restore DIR < NAR       a path as a NAR, and a new folder from one',
  'verify [-r] [PATH…]                           whether files are what they were; without PATH the whole store',
  '  [--no-contents] [--no-trust]                only what is recorded; whoever signed it',
  'repair PATH…|--all                            make broken paths anew from the caches',
  'optimise [PATH…]                              make equal files one file, and say how much that frees',
  'delete PATH…                                  remove paths that nothing keeps, and say what keeps the others',
  'why-depends [-a] [--precise] PATH DEPENDENCY  how one leads to the other; --precise: through which files',
  'diff [--files] BEFORE AFTER                   packages that closures differ in; --files: files of the two paths',
  'du [-r] [PATH…]                               sizes, with and without what paths refer to',
  '',
  'PATH is a store path, a place below one, or a link such as result. docs/store.md has more.',
].join('\n');

const profileDetails = [
  'install FLAKE#PACKAGE…        build packages and install them; also called add',
  'remove NAME…                  take packages out',
  'upgrade [NAME…]               lock what they were installed from anew, and build that',
  'list                          what is installed, and from where',
  'history                       the generations: when, how large, what was added, removed, upgraded',
  'diff [N [M]]                  what sets two generations apart (default: the one before, and the current one)',
  'rollback [--to N], switch N   go back to the generation before, or to any',
  'wipe-history                  remove all generations but the current one; see --older-than and --keep',
  '',
  'Each change is a new generation, switched to in one step. docs/profiles.md has more.',
].join('\n');

export const commands = {
  init: {
    args: '[DIR]',
    min: 0,
    max: 1,
    summary: 'Write a flake.yaml that locks and builds at once',
    details: 'Never overwrites a manifest. In a Git repository the new file is made known with git add -N.',
    options: common,
  },
  add: {
    args: 'URL [NAME]',
    min: 1,
    max: 2,
    summary: 'Add an input to flake.yaml and lock it',
    details:
      'NAME defaults to the last word of the URL. The rest of flake.yaml, comments too, stays as its author wrote it.',
    options: [...common, 'version', 'tag', 'ref', 'rev', 'follows', 'no-flake', ...editing],
  },
  remove: {
    args: 'NAME…',
    min: 1,
    summary: 'Take inputs out of flake.yaml and flake.lock',
    details: 'Refuses, and lists the places, where a package uses an input or another input follows it.',
    options: [...common, ...editing],
  },
  pin: {
    args: 'INPUT [REV]',
    min: 1,
    max: 2,
    summary: 'Keep an input where it is, whatever flk update moves',
    details:
      'Without REV the input becomes frozen: true, and flake.lock has its revision; flk update INPUT, by name, still moves it. With\nREV that revision is written into flake.yaml.',
    options: [...common, ...editing],
  },
  unpin: {
    args: 'INPUT',
    min: 1,
    max: 1,
    summary: 'Let flk update move an input again',
    details:
      'Takes frozen and rev out of flake.yaml. What was frozen moves with the next flk update, what had a rev at once.',
    options: [...common, ...editing],
  },
  set: {
    args: 'INPUT',
    min: 1,
    max: 1,
    summary: 'Change what flake.yaml says of an input, and lock it',
    details: "An empty value takes the key away: --ref ''.",
    options: [...common, 'url', 'version', 'tag', 'ref', 'rev', 'follows', 'no-flake', ...editing],
  },
  lock: {
    args: '[FLAKE]',
    min: 0,
    max: 1,
    summary: 'Pin every input, and theirs, in flake.lock',
    details:
      'Adds what is missing and drops what is gone; never moves a pin that still fits. With --check: exit status 1 and the\nreasons when flake.lock is not what locking now would give.',
    options: [...common, 'check', ...locking, ...network],
  },
  update: {
    args: '[INPUT…]',
    min: 0,
    summary: 'Move the named inputs, or all, to what their references mean now',
    details: 'INPUT may be a path, greet/base. Pins that were not named stay.',
    options: [
      ...common,
      'flake',
      'deep',
      'override-input',
      'reference-lock-file',
      ...writing,
      ...sources,
      ...network,
    ],
  },
  build: {
    args: '[FLAKE#PACKAGE…]',
    min: 0,
    summary: 'Build packages',
    details:
      'Locks first, as flk lock does. PACKAGE defaults to default; #NAME is a package of the flake in this folder. --json prints\nwhat nix build --json prints. --dry-run lists what would be built, what would come from which cache, and what is there, and\nwrites no lock. Where CI=true, --locked is the default; --no-locked takes it back.',
    options: [
      ...common,
      'no-link',
      'out-link',
      'print-out-paths',
      'dry-run',
      'rebuild',
      'times',
      'system',
      ...building,
      ...locking,
      ...network,
    ],
  },
  run: {
    args: '[FLAKE#NAME] [-- ARGS…]',
    min: 0,
    max: 1,
    rest: true,
    summary: 'Build a package and run its program, or an app',
    details:
      'NAME is an app, else a package, whose program is meta.mainProgram, else the package’s name, in the output’s bin. It runs in this\nfolder, in a view of this machine that has /nix/store. Exits as the program does. Where CI=true, --locked is the default;\n--no-locked takes it back.',
    options: [...common, ...building, ...locking, ...network],
  },
  shell: {
    args: '[FLAKE#PACKAGE…] [-- COMMAND ARGS…]',
    min: 0,
    rest: true,
    summary: 'Start a shell, or a command, that has packages on its PATH',
    details:
      'The shell is $SHELL, in this folder and with this environment: only PATH has the packages’ bin in front, and FLK_SHELL their\nnames. Where they need /nix/store and this machine has none, it runs in a view of this machine that has it. Exits as the\nshell or command does.',
    options: [...common, 'command', ...environment, ...buildingOne, ...locking, ...network],
  },
  develop: {
    args: '[FLAKE#NAME] [-- COMMAND ARGS…]',
    min: 0,
    max: 1,
    rest: true,
    summary: 'Start a shell to work on a package, with all that it is built with',
    details:
      'NAME is one of devShells, else a package; its inputs are built, and it is not. In a package’s shell the phases are functions\n(unpackPhase, buildPhase, …; buildAll runs all), and outputs go to ./outputs. --print-env is for direnv: docs/shells.md.\nExits as the shell or command does.',
    options: [
      ...common,
      'command',
      'print-env',
      'phase',
      'unpack',
      'configure',
      'build',
      'check',
      'install',
      ...environment,
      ...buildingOne,
      ...locking,
      ...network,
    ],
  },
  check: {
    args: '[FLAKE]',
    min: 0,
    max: 1,
    summary: 'See that all that a flake offers can be instantiated, and that its checks build',
    details:
      'Reads the manifest for all systems, instantiates packages, checks, shells, apps and the formatter for this one (or --system), and\nbuilds all checks, whatever fails. A line for each check, and for whatever else has failed; exit status 1 where something has.',
    options: [
      ...common,
      'no-build',
      'reproducible',
      'all-systems',
      'system',
      ...building,
      ...locking,
      ...network,
    ],
  },
  fmt: {
    args: '[PATH…] [-- ARGS…]',
    min: 0,
    rest: true,
    summary: 'Format files with the flake’s formatter',
    details:
      'Runs the program that formatter: names in flake.yaml, in this folder, with the arguments as they are and PRJ_ROOT, the flake’s\nfolder, as nix fmt does. What no PATH means is up to the program.',
    options: [...common, 'flake', ...buildingOne, ...locking, ...network],
  },
  metadata: {
    args: '[FLAKE]',
    min: 0,
    max: 1,
    summary: 'Show where a flake comes from and the tree of its inputs',
    details: '--json has the shape of nix flake metadata --json.',
    options: [...common, ...locking, ...network],
  },
  prefetch: {
    args: 'REF',
    min: 1,
    max: 1,
    summary: 'Fetch what a reference means now into the store, and print its hash',
    details: 'REF need not be a flake. --json has the shape of nix flake prefetch --json.',
    options: [...common, 'out-link', ...network],
  },
  archive: {
    args: '[FLAKE]',
    min: 0,
    max: 1,
    summary: 'Copy a flake and the sources of all its inputs into the store or a cache',
    details:
      'TO is a folder, or a URL as flk cache takes them: a binary cache that nix copy --from and flk take the sources from. Without\n--to they go to the store. --json has the shape of nix flake archive --json.',
    options: [...common, 'to', 'dry-run', ...locking, ...network],
  },
  show: {
    args: '[FLAKE]',
    min: 0,
    max: 1,
    summary: 'Show what a flake offers: packages, checks, shells, apps, templates',
    details: '--json has the shape of nix flake show --json.',
    options: [...common, ...network],
  },
  hash: {
    args: 'path|file|convert SUBJECT…',
    min: 1,
    summary: 'Hash files and folders as Nix does, or write a hash in another way',
    details:
      'path: the NAR of what lies there (what locks hold). file: the bytes of one file. convert: HASH is sha256-BASE64,\nsha256:DIGITS, or digits with --hash-algo; --to and --from name notations.',
    options: [...common, 'format', 'to', 'from', 'hash-algo', 'mode'],
  },
  derivation: {
    args: 'show [FLAKE#PACKAGE…|PATH…]',
    min: 1,
    summary: 'Show the derivations that packages become, as JSON',
    details:
      'PATH is a .drv in the store, or what one made. With --recursive: all that they stand on, too. The shape is that of\nnix derivation show. Nothing is built, except packages with contentAddressed: true that the named ones are built with.',
    options: [...common, 'recursive', 'system', ...locking, ...network],
  },
  registry: {
    args: 'list|add|remove|pin|resolve [REF…]',
    min: 1,
    summary: 'Show, change and ask the registries, which say what names like nixpkgs mean',
    details:
      'list: all entries. add FROM TO: let FROM mean TO. remove FROM. pin FROM [TO]: let FROM mean what TO is at this moment.\nresolve REF…: where the registries lead. Files, order and output are those of nix registry; add, remove and pin change\nthis person’s own file, or the one that --registry names.',
    options: [...common, 'registry', 'override-flake', 'no-registries', ...network],
  },
  store: {
    args: 'COMMAND [PATH…]',
    min: 1,
    summary: 'Look into the store, check it, and move paths in and out',
    details: storeDetails,
    options: [
      ...common,
      'name',
      'mode',
      'dry-run',
      'recursive',
      'list-recursive',
      'long',
      'directory',
      'size',
      'closure-size',
      'sigs',
      'json-format',
      'all',
      'no-contents',
      'no-trust',
      'no-check-sigs',
      'precise',
      'files',
      ...substituting,
      ...network,
    ],
  },
  gc: {
    args: '',
    min: 0,
    max: 0,
    summary: 'Remove from the store what nothing keeps',
    details:
      'What stays: result links and profiles, the inputs of flake.lock files whose flakes were built here, running programs and\nbuilds, and all that these refer to. docs/garbage.md has more.',
    options: [...common, 'older-than', 'keep', 'max-free', 'max-freed', 'dry-run', 'print-roots', 'store'],
  },
  profile: {
    args: 'COMMAND [ARGUMENTS]',
    min: 1,
    summary: 'Install packages to stay, in generations that one can go back to',
    details: profileDetails,
    options: [
      ...common,
      'profile',
      'priority',
      'all',
      'to',
      'older-than',
      'keep',
      'dry-run',
      ...building,
      ...locking,
      ...network,
    ],
  },
  log: {
    args: '[FLAKE#PACKAGE | PATH]',
    min: 0,
    max: 1,
    summary: 'Print the log of the last build of something',
    details:
      'PATH is an output, a link to one, or a .drv. Where this machine has no log, the caches are asked. With -f a build that runs is\nfollowed to its end.',
    options: [...common, 'follow', 'substitute', 'substituters', ...locking, ...network],
  },
  'why-alive': {
    args: 'PATH…',
    min: 1,
    summary: 'Show what keeps paths in the store',
    details:
      'Every root that leads to the path, each with the shortest way. Exits with 1 where the next flk gc would remove one.',
    options: [...common, 'store'],
  },
  cache: {
    args: 'keygen|push|pull|info|serve ARGS…',
    min: 1,
    summary: 'Make keys for binary caches, fill them, take from them, look at them, be one',
    details:
      'keygen NAME: a secret key on stdout, its public key on stderr. push URL PATH…: put paths, and all that they refer to, into\na cache. pull URL PATH…: take them from it into the store. info URL: what the cache says of itself. URL is https://…,\nfile:///FOLDER or a folder, with options as in Nix: ?priority=10&trusted=true&compression=xz.\nserve: give the store, or the cache in --folder, to whoever asks by HTTP, until Ctrl-C; with --token-file, take paths too.',
    options: [
      ...common,
      'key',
      'public',
      'allow-host',
      'compression',
      'trusted-public-key',
      'listen',
      'folder',
      'token-file',
      'priority',
      ...network,
    ],
  },
  explain: {
    args: 'CODE',
    min: 1,
    max: 1,
    summary: 'Explain an error code',
    details: 'CODE with or without FLK_.',
    options: common,
  },
} as const satisfies Record<string, CommandRow>;

export type CommandName = keyof typeof commands;
