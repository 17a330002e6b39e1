/** Disks that are full or read-only, as a mount of their own: file modes mean nothing to root, and root runs these tests in many places. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { run } from '../../src/base/process.ts';
import { cliWorld } from '../support/cli.ts';
import { servedRepositories } from '../support/git-server.ts';

const program = fileURLToPath(new URL('../../bin/flk.js', import.meta.url));
const namespaces = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0;
const why = namespaces ? '' : ' (skipped: no user namespaces here)';

/**
 * $1 the folder to mount a small disk on, $2 what to put there, $3 `full` or `read-only`; then the command. Prints what lies there
 * afterwards.
 */
const script = `
mount -t tmpfs -o size=128k flk "$1" && cp "$2/flake.yaml" "$1" && cp "$2/flake.lock" "$1" 2>/dev/null
case $3 in
  full) cat /dev/zero > "$1/ballast" 2>/dev/null ;;
  read-only) mount -o remount,bind,ro "$1" ;;
esac
cd "$1" && shift 3 && "$@"
status=$?
echo "status $status; $(ls -A | tr '\\n' ' '); $(cat flake.lock 2>&1)"
`;

describe.skipIf(!namespaces)(`on a disk that is${why}`, () => {
  it.each([
    ['full', 'without a lock', undefined],
    ['full', 'with a lock', '{"nodes":{"root":{}},"root":"root","version":7}\n'],
    ['read-only', 'without a lock', undefined],
    ['read-only', 'with a lock', '{"nodes":{"root":{}},"root":"root","version":7}\n'],
  ])('%s, %s, flk lock says so and changes nothing', async (kind, _, lock) => {
    const served = await servedRepositories(['base']);
    const world = cliWorld();
    const from = join(world.home, 'from');
    mkdirSync(from);
    writeFileSync(join(from, 'flake.yaml'), `inputs:\n  base: git+${served.server.base}/base\n`);
    if (lock !== undefined) writeFileSync(join(from, 'flake.lock'), lock);
    const args = [
      '--user',
      '--map-root-user',
      '--mount',
      'sh',
      '-c',
      script,
      'flk',
      world.folder,
      from,
      kind,
    ];
    const { stdout, stderr } = await run('unshare', [...args, process.execPath, program, 'lock'], {
      env: { ...world.env },
    });
    expect(stderr).toContain('error[FLK_FILE_UNWRITABLE]');
    const files = [...(kind === 'full' ? ['ballast'] : []), ...(lock ? ['flake.lock'] : []), 'flake.yaml'];
    const kept = lock?.trim() ?? 'cat: flake.lock: No such file or directory';
    expect(stdout.toString()).toBe(`status 2; ${files.join(' ')} ; ${kept}\n`);
  });
});
