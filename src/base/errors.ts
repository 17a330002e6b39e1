/** One error class, one table of codes. A code is a word, is never reused, and fixes the exit status, hint and explanation. */
import type { Diagnostic } from './diagnostics.ts';

/**
 * 1 the answer is no · 2 usage or manifest · 3 network, retryable · 4 integrity · 70 our bug · 130 interrupted.
 */
export type ExitStatus = 1 | 2 | 3 | 4 | 70 | 130;

interface CodeRow {
  readonly exit: ExitStatus;
  /** One line: what to do about it. Empty where the error itself must say. */
  readonly hint: string;
  /** What `flk explain CODE` prints: why this happens and how it is mended. */
  readonly explain: string;
}

const row = (exit: ExitStatus, hint: string, explain: string): CodeRow => ({ exit, hint, explain });

export const errorCodes = {
  // usage
  FLK_USAGE: row(
    2,
    'flk --help lists the commands',
    'The command line names an unknown command, option or value.',
  ),
  FLK_INTERNAL: row(
    70,
    'this is a bug in flk: please report it with the command and this message',
    'flk met a state that its own rules exclude. Nothing was written after that point.',
  ),
  FLK_INTERRUPTED: row(
    130,
    '',
    'You stopped flk. Files are as they were before, or as they should be after: never between.',
  ),

  // files
  FLK_FILE_UNREADABLE: row(
    2,
    'check that the path exists and that you may read it',
    'A file could not be read.',
  ),
  FLK_FILE_UNWRITABLE: row(
    2,
    'check the folder’s permissions and the free space, then run the command again',
    'A file could not be written: the folder is read-only, the disk is full, or it belongs to someone else. The old file is untouched.',
  ),
  FLK_LOCK_BUSY: row(
    1,
    'wait for the other flk, or stop it',
    'Another flk process holds the lock on this file or store path for too long.',
  ),

  // settings
  FLK_SETTINGS_INVALID: row(
    2,
    'docs/configuration.md lists the settings',
    'A file of settings has faults: flk’s own config.yaml, or a nix.conf that flk reads too. Each is shown with its line; secrets are not.',
  ),

  // manifest
  FLK_MANIFEST_MISSING: row(
    2,
    'flk init writes one',
    'The folder or repository has neither flake.yaml nor flake.nix, so flk does not know what to lock or build. An input that is only files takes flake: false.',
  ),
  FLK_MANIFEST_AMBIGUOUS: row(
    2,
    '--manifest flake.yaml says which one counts',
    'A folder has both flake.yaml and flake.nix. They may say different things, and there is one flake.lock: --manifest chooses, or remove one of them.',
  ),
  FLK_MANIFEST_UNTRACKED: row(
    2,
    'git add -N flake.yaml',
    'flake.yaml exists but Git does not track it, so a clone of this repository would not have it. git add -N makes it known without staging its content.',
  ),
  FLK_MANIFEST_INVALID: row(
    2,
    '',
    'A flake.yaml or flake.nix has faults. All of them are listed, each with its line and column.',
  ),
  FLK_MANIFEST_VERSION: row(2, 'update flk', 'The flake asks for another version of flk (requireVersion).'),
  FLK_NIX_SYNTAX: row(
    2,
    '',
    'A text is not an expression of the Nix language. The first place where it stops being one is shown.',
  ),

  // references
  FLK_REF_INVALID: row(
    2,
    '',
    'A flake reference cannot be parsed. Examples: git+https://host/owner/repo?ref=main, path:./lib.',
  ),
  FLK_REF_UNSUPPORTED: row(
    2,
    '',
    'This kind of flake reference is known, but this version of flk does not fetch it.',
  ),
  FLK_REF_CREDENTIALS: row(
    2,
    'use a git credential helper or netrc instead',
    'A URL in a manifest holds a user name or a token. It would end up in the lock and in store paths, for everyone to read.',
  ),
  FLK_REGISTRY_UNKNOWN: row(
    2,
    'flk registry list shows what there is',
    'A flake is named by an id, and no registry says where that is. Inputs are looked up in the global registry and in --override-flake alone, flakes on the command line also in the registries of this person and of this machine.',
  ),
  FLK_REGISTRY_CYCLE: row(2, '', 'Entries of the registries lead to one another in a circle.'),
  FLK_REGISTRY_INVALID: row(
    2,
    'mend the file, or move it away',
    'A registry is not what flk can read: JSON of version 2, a list of entries with from and to.',
  ),

  // lock
  FLK_LOCK_INVALID: row(
    2,
    'restore it with git checkout flake.lock, or remove it and run flk lock',
    'flake.lock is not a lock file that flk can trust: truncated, of an unknown version, or naming nodes that do not exist.',
  ),
  FLK_LOCK_CONFLICT: row(
    2,
    'take either side, git checkout --ours flake.lock, then run flk lock',
    'flake.lock holds merge-conflict markers.',
  ),
  FLK_LOCK_UNLOCKED_INPUT: row(
    2,
    'commit the changes there, or try --allow-dirty-locks',
    'An input is a working tree with changes that are not committed. Its hash is known, but nobody else could get these bytes, so they do not belong into a lock.',
  ),
  FLK_LOCK_STALE: row(
    1,
    'flk lock',
    'flake.lock is not what locking flake.yaml would give now, and this command may not change it.',
  ),
  FLK_LOCK_MISSING: row(1, 'flk lock', 'There is no flake.lock, and this command may not write one.'),
  FLK_INPUT_UNKNOWN: row(
    2,
    'flk metadata lists the inputs',
    'The command names an input that the flake does not have.',
  ),
  FLK_FOLLOWS_MISSING: row(
    2,
    'let it follow an input that there is',
    'An input follows another one that does not exist.',
  ),
  FLK_FOLLOWS_CYCLE: row(
    2,
    'give one of them a url of its own',
    'Inputs follow one another in a circle, so none of them has a source.',
  ),
  FLK_INPUT_CYCLE: row(2, '', 'A flake is, through its inputs, an input of itself. The whole path is shown.'),
  FLK_GRAPH_LIMIT: row(
    2,
    '',
    'The graph of inputs is deeper or larger than flk follows; a hostile or broken flake can grow without end.',
  ),
  FLK_VERSION_UNSATISFIED: row(
    2,
    '',
    'No tag of the repository lies in the semver range that the manifest asks for. The nearest tags are listed.',
  ),
  FLK_OFFLINE: row(
    3,
    'run it once without --offline',
    'The bytes are not on this machine and flk was told not to use the network.',
  ),

  // network and git
  FLK_NETWORK: row(
    3,
    'check the connection and try again',
    'A server could not be reached, or the connection broke.',
  ),
  FLK_HTTP_STATUS: row(3, '', 'A server answered with an error status.'),
  FLK_HTTP_AUTH: row(
    3,
    'give flk a token or a netrc login for this host (docs/configuration.md), or git a credential helper',
    'A server wants credentials, or refuses those it was given.',
  ),
  FLK_HTTP_RATE_LIMIT: row(
    3,
    'wait, or give flk a token for this host: docs/configuration.md',
    'A server has answered as many requests as it allows you for now. Those of a known user may ask more often.',
  ),
  FLK_FORGE_ANSWER: row(
    3,
    'if the host is no such forge, name the repository as git+https://',
    'The API of a forge answers with something else than it is documented to: another kind of server may stand there.',
  ),
  FLK_GIT_REPO_MISSING: row(
    2,
    'check the URL',
    'There is no Git repository at this address, or you may not see it.',
  ),
  FLK_GIT_REF_MISSING: row(2, '', 'The repository has no such branch or tag.'),
  FLK_GIT_REV_GONE: row(
    4,
    'flk update INPUT picks a revision that exists',
    'The pinned revision is no longer in the repository: history was rewritten or the object was collected.',
  ),
  FLK_GIT_PROTOCOL: row(
    3,
    '',
    'The server’s answer is not the Git protocol, breaks off, or breaks its rules.',
  ),
  FLK_GIT_REMOTE: row(3, '', 'The server, or the git program, reports an error of its own.'),
  FLK_GIT_PACK: row(
    4,
    '',
    'A pack from the server is damaged or hostile: a wrong checksum, a bad delta, a missing object.',
  ),
  FLK_GIT_TREE: row(
    4,
    '',
    'A tree in the repository holds names that no file system should be given: .., .git, a slash.',
  ),
  FLK_GIT_SHALLOW: row(
    2,
    'git fetch --unshallow there; or add shallow=1 to the reference, which asks for no count',
    'A lock says how many revisions lead up to the one it names (revCount), and a shallow clone does not hold them all.',
  ),
  FLK_GIT_SUBMODULE: row(
    4,
    'correct .gitmodules in that repository, or leave submodules=1 out',
    'A submodule’s path or URL is not one that flk follows: it leaves the repository, would run a command, or leads from a server to this machine.',
  ),
  FLK_GIT_LFS: row(
    4,
    'push the object with git lfs push, or leave lfs=1 out',
    'A file kept by Git LFS is not on the server, or is not what its pointer in the repository says.',
  ),
  FLK_SSH_AUTH: row(
    3,
    'load your key with ssh-add, and check with ssh -T HOST that the server knows it',
    'The server did not let ssh in. flk never asks for a password or a passphrase: the key must be in the agent, or without one.',
  ),
  FLK_SSH_HOST_KEY: row(
    4,
    '',
    'The server’s host key is not the one that ssh knows, or ssh knows none. Somebody may stand between you and the server.',
  ),
  FLK_GIT_MISSING: row(2, 'install git', 'This needs the git program, and there is none on this machine.'),
  FLK_GIT_WORKTREE: row(
    2,
    'install git, which reads it',
    'Without a git program flk cannot read this kind of repository safely.',
  ),
  FLK_GIT_DIRTY: row(
    1,
    'commit the changes, or take --allow-dirty',
    'The repository has changes that are not committed, and allow-dirty is off, so that nothing is made of what nobody else has.',
  ),
  FLK_LIMIT: row(4, '', 'Something from outside is larger, deeper or slower than any honest one would be.'),

  // integrity
  FLK_NAR_HASH_MISMATCH: row(
    4,
    'if you expect the change, flk update INPUT; else treat it as tampering',
    'The bytes fetched for a pinned revision are not the bytes that were locked.',
  ),
  FLK_NAR_INVALID: row(
    4,
    '',
    'A NAR archive breaks the format’s rules: unsorted names, padding that is not zero, trailing bytes.',
  ),
  FLK_HASH_INVALID: row(2, '', 'A hash is not one of sha256-BASE64, sha256:NIXBASE32 or sha256:BASE16.'),
  FLK_STORE_PATH_INVALID: row(2, '', 'Not a store path: wrong length, wrong characters or a forbidden name.'),
  FLK_STORE_PATH_UNKNOWN: row(
    1,
    'flk store path-info --all lists what there is',
    'A path has the form of a store path, but this store has no such path.',
  ),
  FLK_STORE_PATH_ALIVE: row(
    1,
    'flk why-alive PATH shows the way from a root',
    'A path cannot be deleted: a path that stays refers to it, a root keeps it, or a running flk uses it.',
  ),
  FLK_EXPORT_INVALID: row(
    4,
    'take the stream from flk store export or nix-store --export, whole',
    'What was to be imported is not a stream of store paths: it is damaged, breaks off, goes on after its end, or leaves out paths that others refer to.',
  ),
  FLK_EXPORT_UNTRUSTED: row(
    4,
    'flk cache pull takes signed paths; --no-check-sigs takes this one on the stream’s word',
    'An imported path is not named after its content, and the stream carries no signature: whoever made the stream could have put anything under that name.',
  ),
  FLK_KEY_INVALID: row(
    2,
    'flk cache keygen NAME makes a pair',
    'A key or its name is not what flk and Nix write: NAME:BASE64, with 32 bytes for a public key and 64 for a secret one.',
  ),
  FLK_CACHE_LISTEN: row(
    1,
    '--listen HOST:PORT chooses another address',
    'flk cannot serve a cache at this address: another program is there, it is not this machine’s, or it is not for everyone.',
  ),
  FLK_CACHE_INVALID: row(
    4,
    'do without this cache until it is mended: --no-substitute builds instead',
    'A binary cache breaks its own rules: its narinfo cannot be read or speaks of another path, an archive is missing, damaged, or larger than promised.',
  ),
  FLK_CACHE_UNTRUSTED: row(
    4,
    'name its key with --trusted-public-key NAME:BASE64, if you trust who holds it',
    'A binary cache offers a path that is not named after its content, and no key that you trust has signed it: whoever runs the cache could have put anything under that name.',
  ),
  FLK_CACHE_MISSING: row(
    1,
    'check the address and the path; what has to be built, flk build builds',
    'No binary cache that was asked has the path, or one of the paths that it refers to.',
  ),
  FLK_CACHE_HOST_TOOLCHAIN: row(
    1,
    'give the packages a toolchain, or push all the same with --allow-host',
    'What was to be pushed was built with this machine’s own programs. Another machine would build something else under the same name, so it stays out of caches.',
  ),
  FLK_DERIVATION_INVALID: row(
    4,
    '',
    'A derivation cannot be parsed, or its output paths are not the ones its content implies.',
  ),
  FLK_FETCH_HASH_MISMATCH: row(
    4,
    '',
    'A fetched file does not have the hash that the manifest promises. The hash found is shown, to paste if you trust it.',
  ),
  FLK_FETCH_HASH_MISSING: row(2, '', 'A fetch has no hash. The right one is shown, to paste.'),
  FLK_ARCHIVE_INVALID: row(
    4,
    '',
    'An archive cannot be unpacked safely: traversal, absolute paths, duplicate names, devices, or damage.',
  ),

  // build
  FLK_PACKAGE_UNKNOWN: row(2, '', 'The flake has no such package.'),
  FLK_PACKAGE_CYCLE: row(2, '', 'Packages depend on one another in a circle.'),
  FLK_PACKAGE_INVALID: row(2, '', 'A package cannot become a derivation.'),
  FLK_SYSTEM_UNSUPPORTED: row(2, '', 'The flake does not list this machine’s system.'),
  FLK_BUILD_FAILED: row(
    1,
    '-L prints the whole log while it builds',
    'A builder ended with an error. The end of its log is shown, and the file that has all of it.',
  ),
  FLK_BUILD_TIMEOUT: row(
    1,
    '--timeout and --max-silent-time allow more; flk log prints how far it came',
    'A builder ran, or was silent, for longer than allowed.',
  ),
  FLK_BUILD_OUTPUT_MISSING: row(
    1,
    'installPhase must create $out',
    'A builder ended well but left no output.',
  ),
  FLK_BUILD_OUTPUT_INVALID: row(
    1,
    '',
    'A builder left something in its output that a store cannot hold: a device, a socket, a setuid file.',
  ),
  FLK_BUILD_OUTPUT_LIMIT: row(1, '', 'A builder wrote more than it may.'),
  FLK_BUILD_LIMIT: row(1, '', 'A builder wanted more memory or more processes than it may have.'),
  FLK_LOG_MISSING: row(
    1,
    'flk build --rebuild builds it again',
    'No log is kept of how this was built: it came from a cache, was added as it is, or was built elsewhere.',
  ),
  FLK_BUILD_DISK_FULL: row(
    1,
    'make room: flk gc removes what nothing needs',
    'A builder was stopped before it filled the disk.',
  ),
  FLK_BUILD_NOT_REPRODUCIBLE: row(
    1,
    '',
    'Building again gave other bytes. The files that differ are listed.',
  ),
  FLK_DEPENDENCY_FAILED: row(1, '', 'Something that this package needs was not built.'),
  FLK_SANDBOX_UNAVAILABLE: row(
    1,
    'install bubblewrap, allow user namespaces, or accept --no-sandbox',
    'This machine lets flk make no namespaces, so builds could see and change what they should not.',
  ),
  FLK_BUILDER_MISSING: row(
    1,
    '--builders names others; docs/builders.md says what each takes',
    'None of the builders takes this: it is for another system, asks for a feature that they do not have, or has a toolchain that they cannot see.',
  ),
  FLK_BUILDER_UNAVAILABLE: row(
    3,
    'check the builder, or name others with --builders',
    'A builder that could take this cannot be reached, or cannot take it now, and no other is left to do it.',
  ),
  FLK_REMOTE_ADDRESS: row(
    2,
    'grpcs://HOST:PORT, or grpc://HOST:PORT where nobody listens in',
    'A remote builder’s address or credentials cannot be used as they are set. Secrets are sent over TLS, or to this machine itself, and nowhere else.',
  ),
  FLK_REMOTE_REFUSED: row(
    1,
    '',
    'A remote builder answered, and refused: the credentials are not enough, or it does not take such an action.',
  ),
  FLK_REMOTE_INTEGRITY: row(
    4,
    'do not trust this builder until it is known why',
    'A remote builder sent other bytes than those it named, or outputs that cannot be: names that lead elsewhere, two files of one name. Nothing of it was kept.',
  ),
  FLK_STORE_CORRUPT: row(
    4,
    'flk build --rebuild makes it anew',
    'A store path does not have the bytes that its record promises.',
  ),
  FLK_STORE_UNSAFE: row(
    2,
    'use another --store',
    'Where the store lies others could exchange its folders while it is used, or no program can run.',
  ),
  FLK_STORE_INVALID: row(2, '', 'The store’s folder or database cannot be used.'),
  FLK_ROOT_UNREADABLE: row(
    2,
    'make it readable, or remove the link, if what it keeps may go',
    'A link among the store’s roots leads where you may not look. It could keep any path alive, so nothing is removed.',
  ),
  FLK_PROFILE_COLLISION: row(
    2,
    '',
    'Two packages of a profile have a file at the same place, and neither has the better priority: the lower number wins.',
  ),
  FLK_PROFILE_INVALID: row(
    2,
    'flk profile rollback goes back to the generation before',
    'A profile, or the manifest.json in one of its generations, is not what flk or Nix writes.',
  ),
  FLK_PROFILE_PACKAGE_UNKNOWN: row(
    2,
    'flk profile list shows the names',
    'The profile has no package of this name.',
  ),
  FLK_PROFILE_GENERATION_UNKNOWN: row(
    2,
    'flk profile history shows the generations',
    'The profile has no such generation: it was never made, or it was removed.',
  ),
  FLK_RUN_NO_PROGRAM: row(
    2,
    'set meta.mainProgram',
    'flk run does not know which of the package’s programs to start.',
  ),
} as const satisfies Record<string, CodeRow>;

export type ErrorCode = keyof typeof errorCodes;

export interface ErrorDetails {
  /** Instead of the code's own hint: the exact command or text that mends this case. */
  readonly hint?: string;
  /** Named values; `found` and `wanted` where two things were compared. */
  readonly facts?: Readonly<Record<string, string>>;
  /** From the root to the place of the fault: `flake.yaml:7:3`, `greet`, `greet/base`. */
  readonly trail?: readonly string[];
  readonly diagnostics?: readonly Diagnostic[];
  readonly cause?: unknown;
}

export class FlkError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly facts: Readonly<Record<string, string>>;
  readonly trail: readonly string[];
  readonly diagnostics: readonly Diagnostic[];

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(clean(message), details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'FlkError';
    this.code = code;
    this.hint = clean(details.hint ?? errorCodes[code].hint);
    this.facts = Object.fromEntries(
      Object.entries(details.facts ?? {}).map(([key, value]) => [key, clean(value)]),
    );
    this.trail = (details.trail ?? []).map(clean);
    this.diagnostics = details.diagnostics ?? [];
  }

  get exitStatus(): ExitStatus {
    return errorCodes[this.code].exit;
  }

  /** The same error seen from one step further up the graph. */
  within(step: string): FlkError {
    return new FlkError(this.code, this.message, {
      hint: this.hint,
      facts: this.facts,
      trail: [step, ...this.trail],
      diagnostics: this.diagnostics,
      cause: this.cause,
    });
  }
}

/** Whatever was thrown, as one of ours; a stranger becomes FLK_INTERNAL. */
export function asFlkError(thrown: unknown): FlkError {
  if (thrown instanceof FlkError) return thrown;
  return new FlkError('FLK_INTERNAL', thrown instanceof Error ? thrown.message : String(thrown), {
    cause: thrown,
  });
}

/** The `code` of a Node system error (`ENOENT`, …), if it is one. */
export function systemCode(thrown: unknown): string | undefined {
  return thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string'
    ? thrown.code
    : undefined;
}

/** Text from outside may hold escape sequences and passwords; neither reaches a terminal or a log. */
function clean(text: string): string {
  return redactUrls(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '\ufffd');
}

/** Replaces user info in URLs by what `mask` gives for it: `***`, or as many characters where places in the text must stay. */
export function redactUrls(text: string, mask: (user: string) => string = () => '***'): string {
  // Without a look at the scheme: of a long text without one, that would take the square of its length. Up to the last @: a password
  // may hold one.
  return text.replace(/:\/\/([^/?#\s]*)@/g, (whole, user: string) =>
    user === 'git' ? whole : `://${mask(user)}@`,
  );
}
