/** The options as one table: command-line.ts parses by it and by the commands, and prints their help. */
export interface OptionRow {
  /**
   * How it takes its value: not at all, as text, as a whole number; `list` and `pair` (two texts) any number of times; `words`: all
   * that follows on the command line, at least one word, whatever it looks like.
   */
  readonly kind: 'flag' | 'text' | 'number' | 'list' | 'pair' | 'words';
  /** Unique among the options of a command. */
  readonly short?: string;
  /** Another name that means the same, unless the command has an option of that name. */
  readonly alias?: string;
  /** What the value is called in help. */
  readonly value?: string;
  /** `--no-NAME` says the opposite, and is told apart from saying nothing. */
  readonly negatable?: true;
  /** Environment variable that speaks where the command line does not. */
  readonly env?: string;
  /** A word that may be written for 0. */
  readonly zero?: string;
  readonly help: string;
}

export const options = {
  help: { kind: 'flag', short: 'h', help: 'Show help' },
  quiet: { kind: 'flag', short: 'q', help: 'Say nothing but results and errors' },
  json: { kind: 'flag', help: 'Answer in JSON on stdout, errors too' },
  'log-format': {
    kind: 'text',
    value: 'FORMAT',
    help: 'How to report on stderr: auto, tty, plain, or json (one event a line)',
  },
  check: {
    kind: 'flag',
    help: 'lock: only say whether flake.lock is up to date; no network, nothing written. develop: --phase check',
  },
  flake: { kind: 'text', value: 'FLAKE', help: 'The flake to work on (default: .)' },
  version: { kind: 'text', value: 'RANGE', help: 'Take the highest tag in this semver range' },
  url: { kind: 'text', value: 'URL', help: 'Take the input from URL' },
  tag: {
    kind: 'text',
    value: 'SHAPE',
    help: 'How the tags that --version looks at are written: release-{version}',
  },
  ref: { kind: 'text', value: 'REF', help: 'The branch or tag to take' },
  rev: { kind: 'text', value: 'REV', help: 'The revision to take: 40 hex digits' },
  follows: {
    kind: 'list',
    value: 'INPUT=TARGET',
    help: 'Let its input INPUT be TARGET, an input of this flake',
  },
  'no-flake': { kind: 'flag', help: 'The input is only files: read no manifest in it' },
  locked: { kind: 'flag', negatable: true, env: 'FLK_LOCKED', help: 'Fail rather than change flake.lock' },
  frozen: { kind: 'flag', env: 'FLK_FROZEN', help: 'The same as --locked --offline' },
  offline: { kind: 'flag', env: 'FLK_OFFLINE', help: 'Use no network' },
  refresh: { kind: 'flag', help: 'Ask servers again, whatever they answered within the last hour' },
  'no-write-lock-file': { kind: 'flag', help: 'Lock in memory and leave flake.lock as it is' },
  'override-input': { kind: 'pair', value: 'PATH REF', help: 'Take the input at PATH (greet/base) from REF' },
  manifest: { kind: 'text', value: 'FILE', help: 'flake.yaml or flake.nix, where a folder has both' },
  'update-input': { kind: 'list', value: 'PATH', help: 'Move the input at PATH, as flk update does' },
  'recreate-lock-file': { kind: 'flag', help: 'Lock as if there were no flake.lock yet' },
  'no-update-lock-file': { kind: 'flag', help: 'The same as --locked' },
  'commit-lock-file': { kind: 'flag', help: 'Commit flake.lock, and nothing else, when it changes' },
  'output-lock-file': { kind: 'text', value: 'FILE', help: 'Write the lock to FILE instead of flake.lock' },
  'reference-lock-file': {
    kind: 'text',
    value: 'FILE',
    help: 'Start from the lock in FILE, not from flake.lock',
  },
  'inputs-from': {
    kind: 'list',
    value: 'FLAKE',
    help: 'Look registry names up among the inputs of FLAKE first',
  },
  'override-flake': { kind: 'pair', value: 'NAME REF', help: 'Let the registry name NAME mean REF' },
  registry: { kind: 'text', value: 'FILE', help: 'The registry to change (default: this person’s)' },
  'no-registries': { kind: 'flag', help: 'Look no name up in a registry' },
  'allow-dirty': {
    kind: 'flag',
    negatable: true,
    help: 'Take repositories with uncommitted changes (default)',
  },
  'allow-dirty-locks': {
    kind: 'flag',
    negatable: true,
    help: 'Write locks that pin uncommitted changes by their hash',
  },
  impure: { kind: 'flag', help: 'Changes nothing here; so that command lines for Nix work' },
  'no-rev-count': {
    kind: 'flag',
    help: 'Do not count commits: locks have no revCount, and fetching is faster',
  },
  deep: { kind: 'flag', help: 'Move what lies below the named inputs, too' },
  'print-build-logs': { kind: 'flag', short: 'L', help: 'Show each line that builders print' },
  'no-link': { kind: 'flag', help: 'Make no result link' },
  'out-link': {
    kind: 'text',
    short: 'o',
    value: 'LINK',
    help: 'Where to put the result link (default: result)',
  },
  'print-out-paths': { kind: 'flag', help: 'Print the output paths on stdout' },
  rebuild: { kind: 'flag', help: 'Build again and compare with what is there' },
  times: { kind: 'number', value: 'N', help: 'With --rebuild: how often, each time in another surrounding' },
  system: {
    kind: 'text',
    value: 'SYSTEM',
    help: 'Another system than this machine’s: aarch64-linux; only a builder that has it builds for it',
  },
  builders: {
    kind: 'text',
    value: 'LIST',
    help: 'Who builds, in order of preference: local (default), nix, remote=grpc://HOST:PORT',
  },
  'keep-going': { kind: 'flag', short: 'k', help: 'After a failure, build what does not depend on it' },
  'no-sandbox': { kind: 'flag', help: 'Let builders see and change this machine' },
  'max-jobs': {
    kind: 'number',
    short: 'j',
    value: 'N',
    zero: 'auto',
    help: 'How many builds run at a time (default: auto, one per core)',
  },
  cores: { kind: 'number', value: 'N', help: 'NIX_BUILD_CORES for builders (default: 0, all)' },
  timeout: { kind: 'number', value: 'SECONDS', help: 'Stop a build that runs for longer' },
  'max-silent-time': {
    kind: 'number',
    value: 'SECONDS',
    help: 'Stop a build that prints nothing for longer',
  },
  'max-memory': {
    kind: 'text',
    value: 'SIZE',
    help: 'Memory for all processes of a build together: 4G (default: no limit)',
  },
  'max-processes': {
    kind: 'number',
    value: 'N',
    help: 'Processes and threads of a build at a time (default: 4096)',
  },
  follow: { kind: 'flag', short: 'f', help: 'Print what is added, until the build has ended' },
  'keep-failed': {
    kind: 'flag',
    short: 'K',
    negatable: true,
    help: 'Keep the build folder of a build that fails, and say where',
  },
  command: {
    kind: 'words',
    short: 'c',
    value: 'COMMAND ARGS…',
    help: 'Run this, all that follows, instead of an interactive shell',
  },
  'ignore-env': {
    kind: 'flag',
    short: 'i',
    alias: 'ignore-environment',
    help: 'Begin with an empty environment, but for what --keep-env-var names',
  },
  'keep-env-var': {
    kind: 'list',
    short: 'k',
    alias: 'keep',
    value: 'NAME',
    help: 'With --ignore-env, keep this variable',
  },
  'unset-env-var': { kind: 'list', short: 'u', alias: 'unset', value: 'NAME', help: 'Unset this variable' },
  'set-env-var': { kind: 'pair', short: 's', value: 'NAME VALUE', help: 'Set this variable' },
  'no-build': { kind: 'flag', help: 'Only read and instantiate; build nothing' },
  reproducible: { kind: 'flag', help: 'Build each check and package a second time, and compare' },
  'all-systems': { kind: 'flag', help: 'Read and instantiate for every system that the flake names' },
  'print-env': { kind: 'flag', help: 'Print the environment as text for a shell, or with --json' },
  phase: { kind: 'text', value: 'NAME', help: 'Run this phase: unpack, configure, build, check or install' },
  unpack: { kind: 'flag', help: 'The same as --phase unpack' },
  configure: { kind: 'flag', help: 'The same as --phase configure' },
  build: { kind: 'flag', help: 'The same as --phase build' },
  install: { kind: 'flag', help: 'The same as --phase install' },
  format: { kind: 'text', value: 'FORMAT', help: 'base16, nix32, base64 or sri (default)' },
  from: { kind: 'text', value: 'FORMAT', help: 'Refuse hashes that are written otherwise' },
  to: {
    kind: 'text',
    value: 'TO',
    help: 'hash: base16, nix32, base64 or sri (default); archive: a folder; rollback: a generation',
  },
  'hash-algo': { kind: 'text', value: 'NAME', help: 'sha256 (default), sha512, sha1 or md5' },
  mode: {
    kind: 'text',
    value: 'MODE',
    help: 'nar (default), or flat: the bytes of one file; store add: or text',
  },
  name: { kind: 'text', short: 'n', value: 'NAME', help: 'What to call it (default: the last word of PATH)' },
  recursive: {
    kind: 'flag',
    short: 'r',
    help: 'With all that the paths refer to; ls: with all folders below',
  },
  'list-recursive': { kind: 'flag', short: 'R', help: 'ls: the same as -r' },
  long: { kind: 'flag', short: 'l', help: 'ls: with modes, sizes and what links lead to' },
  directory: { kind: 'flag', short: 'd', help: 'ls: folders themselves, not what is in them' },
  size: { kind: 'flag', short: 's', help: 'path-info: with the size of the NAR' },
  'closure-size': { kind: 'flag', short: 'S', help: 'path-info: with the size of the whole closure' },
  sigs: { kind: 'flag', help: 'path-info: with signatures, or why none is needed' },
  'json-format': { kind: 'number', value: 'N', help: 'path-info: the shape of --json, 1 (default) or 2' },
  all: {
    kind: 'flag',
    short: 'a',
    help: 'All paths of the store; why-depends: all ways; profile: all packages',
  },
  'no-contents': { kind: 'flag', help: 'verify: read no files' },
  'no-trust': { kind: 'flag', help: 'verify: ask for no signatures' },
  'no-check-sigs': { kind: 'flag', help: 'import: take paths on the stream’s word' },
  precise: { kind: 'flag', help: 'why-depends: with the files that hold each reference' },
  files: { kind: 'flag', help: 'diff: the files that differ between the two paths' },
  profile: {
    kind: 'text',
    value: 'PROFILE',
    help: 'The profile to work on: a name, or a path with a slash in it (default: profile)',
  },
  priority: {
    kind: 'text',
    value: 'N',
    help: 'The lower number wins. profile: a file that two have (default: 5); serve: who is asked (default: 30)',
  },
  'older-than': {
    kind: 'text',
    value: 'AGE',
    help: 'First remove generations of profiles that were replaced longer ago: 30d, 12h, 2w',
  },
  keep: { kind: 'number', value: 'N', help: 'First remove generations of profiles, but keep the N newest' },
  'max-free': { kind: 'text', value: 'SIZE', help: 'Stop when so much of the disk is free: 10G, 500M' },
  'max-freed': { kind: 'text', value: 'SIZE', help: 'Stop when so much has been freed: 10G, 500M' },
  'print-roots': { kind: 'flag', help: 'Only list what keeps paths, and which' },
  'dry-run': { kind: 'flag', help: 'Only say what would be done' },
  store: {
    kind: 'text',
    value: 'DIR',
    env: 'FLK_STORE',
    help: 'The folder that holds the store (default: $XDG_DATA_HOME/flk)',
  },
  substituters: {
    kind: 'list',
    value: 'URL',
    help: 'A binary cache to take paths from instead of building them',
  },
  'trusted-public-keys': {
    kind: 'list',
    value: 'KEY',
    help: 'Believe what this key, NAME:BASE64, has signed',
  },
  'trusted-public-key': {
    kind: 'list',
    value: 'KEY',
    help: 'Believe what this key, NAME:BASE64, has signed, beside those that are set',
  },
  substitute: { kind: 'flag', negatable: true, help: 'Take paths from binary caches (default)' },
  'push-to': {
    kind: 'list',
    value: 'URL',
    help: 'A binary cache to put into what is built, in the place of those that are set',
  },
  push: { kind: 'flag', negatable: true, help: 'Put what is built into the caches that are set (default)' },
  key: { kind: 'text', value: 'FILE', help: 'The secret key to sign with' },
  'allow-host': { kind: 'flag', help: 'Push or serve also what was built with this machine’s own programs' },
  compression: { kind: 'text', value: 'NAME', help: 'How to pack archives: none, xz or zstd' },
  listen: { kind: 'text', value: 'HOST:PORT', help: 'Where to serve (default: 127.0.0.1:5000)' },
  folder: { kind: 'text', value: 'DIR', help: 'Serve the binary cache in this folder, not the store' },
  'token-file': {
    kind: 'text',
    value: 'FILE',
    help: 'Take uploads from whoever sends the token that FILE holds',
  },
  public: { kind: 'flag', help: 'Print the public key of the secret one on stdin' },
} as const satisfies Record<string, OptionRow>;

export type OptionName = keyof typeof options;

type ValueOf<R extends OptionRow> = R['kind'] extends 'pair'
  ? readonly (readonly [string, string])[]
  : R['kind'] extends 'list' | 'words'
    ? readonly string[]
    : R['kind'] extends 'number'
      ? number | undefined
      : R['kind'] extends 'text'
        ? string | undefined
        : R extends { readonly negatable: true }
          ? boolean | undefined
          : boolean;

/** What was asked for. A flag that was not given is false, a negatable one undefined. */
export type Flags = { readonly [N in OptionName]: ValueOf<(typeof options)[N]> };
