/** Where control groups are made and what is written into them, over folders that look like the kernel's. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ControlGroups, type KernelFiles } from '../../../src/build/engines/cgroups.ts';
import { temporaryFolder } from '../../support/temp.ts';

/** Groups by path, each with the controllers that it hands on; and where flk is. */
function kernel(
  groups: Readonly<Record<string, string>>,
  memberships: string,
  mounts: (top: string) => string = (top) => `31 23 0:28 / ${top} rw - cgroup2 cgroup2 rw,nsdelegate`,
): { top: string; files: KernelFiles } {
  const top = temporaryFolder();
  for (const [path, controllers] of Object.entries(groups)) {
    mkdirSync(join(top, path), { recursive: true });
    writeFileSync(join(top, path, 'cgroup.subtree_control'), `${controllers}\n`);
    writeFileSync(join(top, path, 'cgroup.procs'), '');
  }
  const files = { cgroup: join(top, 'self'), mountinfo: join(top, 'mountinfo') };
  writeFileSync(files.cgroup, `${memberships}\n`);
  writeFileSync(files.mountinfo, `1 0 0:1 / / rw - ext4 x rw\n${mounts(top)}\n`);
  return { top, files };
}

const caps = { maxMemory: 4096, maxProcesses: 7 };

describe('control groups of version 2', () => {
  it('are made in the nearest group that hands the controllers on, not where flk itself is', async () => {
    const { top, files } = kernel(
      { 'a.slice': 'cpu memory pids', 'a.slice/b.slice': 'memory pids', 'a.slice/b.slice/c.scope': '' },
      '0::/a.slice/b.slice/c.scope',
    );
    const groups = await ControlGroups.find(caps, files);
    const group = await groups!.create(caps);
    const [entrance] = group.entrances;
    expect(entrance).toMatch(new RegExp(`^${top}/a.slice/b.slice/flk-${process.pid}-[^/]+/cgroup.procs$`));
    const folder = join(entrance!, '..');
    const written = Object.fromEntries(
      readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
    );
    expect(written).toEqual({
      'memory.max': '4096',
      'memory.swap.max': '0',
      'memory.oom.group': '1',
      'pids.max': '7',
    });
    expect(await group.enforced()).toEqual({ memory: 0, processes: 0 });
    writeFileSync(join(folder, 'memory.events'), 'low 0\noom 3\noom_kill 2\noom_group_kill 1\n');
    writeFileSync(join(folder, 'pids.events'), 'max 5\n');
    expect(await group.enforced()).toEqual({ memory: 2, processes: 5 });
    await group.kill();
    expect(readFileSync(join(folder, 'cgroup.kill'), 'utf8')).toBe('1');
  });

  it('take only the controllers that are needed', async () => {
    const { files } = kernel({ a: 'pids', 'a/b': '' }, '0::/a/b');
    expect(await ControlGroups.find({ maxProcesses: 7 }, files)).toBeDefined();
    expect(await ControlGroups.find(caps, files)).toBeUndefined();
  });

  it('are looked for below what a container sees of the hierarchy', async () => {
    const { top, files } = kernel(
      { '.': 'memory pids', inner: '' },
      '0::/docker/x/inner',
      (folder) => `31 23 0:28 /docker/x ${folder} rw - cgroup2 cgroup2 rw`,
    );
    const group = await (await ControlGroups.find(caps, files))!.create(caps);
    expect(group.entrances[0]).toMatch(new RegExp(`^${top}/flk-`));
  });
});

describe('control groups of version 1', () => {
  it('are made in each hierarchy, below the own group', async () => {
    const { top, files } = kernel(
      { 'memory/mine': '', pids: '' },
      '9:name=systemd:/\n4:memory:/mine\n8:pids:/\n0::/',
      (folder) =>
        [
          `35 31 0:32 / ${folder}/memory rw - cgroup cgroup rw,memory`,
          `39 31 0:36 / ${folder}/pids rw - cgroup cgroup rw,pids`,
          `41 31 0:38 / ${folder}/unified rw - cgroup2 cgroup2 rw`,
        ].join('\n'),
    );
    const group = await (await ControlGroups.find(caps, files))!.create(caps);
    const [memory, pids] = group.entrances.map((entrance) => join(entrance, '..'));
    expect(memory).toMatch(new RegExp(`^${top}/memory/mine/flk-`));
    expect(pids).toMatch(new RegExp(`^${top}/pids/flk-`));
    expect(readFileSync(join(memory!, 'memory.limit_in_bytes'), 'utf8')).toBe('4096');
    expect(readFileSync(join(pids!, 'pids.max'), 'utf8')).toBe('7');
  });
});

describe('where there is none', () => {
  it.each([
    ['no hierarchy', '0::/', () => ''],
    ['none that hands anything on', '0::/a', undefined],
    ['nothing that can be read', '', undefined],
  ])('%s, nothing is found', async (_what, memberships, mounts) => {
    const { files } = kernel({ a: '' }, memberships, mounts);
    expect(await ControlGroups.find(caps, files)).toBeUndefined();
  });

  it('what dead processes left is removed, and what lives is not', async () => {
    const { top, files } = kernel({ a: 'memory pids', 'a/b': '' }, '0::/a/b');
    mkdirSync(join(top, 'a/flk-999999999-1-abc'));
    const group = await (await ControlGroups.find({ maxProcesses: 1 }, files))!.create({ maxProcesses: 1 });
    await ControlGroups.find({ maxProcesses: 1 }, files);
    const left = readdirSync(join(top, 'a')).filter((name) => name.startsWith('flk-'));
    // The dead one's had been given its killer's word; a real group takes it without keeping a file.
    expect(left.filter((name) => !name.includes('999999999'))).toEqual([
      join(group.entrances[0]!, '..').split('/').at(-1),
    ]);
  });
});
