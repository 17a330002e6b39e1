/** A real sshd on loopback, as an ordinary user, with keys of its own; it ends with the test file. */
import { execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll } from 'vitest';
import { freePlace } from './addresses.ts';
import { temporaryFolder } from './temp.ts';

/** sshd wants to be called by its whole path, and is often not on an ordinary user's. */
const sshd = ['/usr/sbin/sshd', '/usr/local/sbin/sshd', '/usr/bin/sshd', '/opt/homebrew/sbin/sshd'].find(
  isProgram,
);

const haveClient = (process.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, 'ssh')));

export const sshAvailable = sshd !== undefined && haveClient;

/** For the title of a group of tests that needs it, so that a skip tells why. */
export const sshReason = sshAvailable ? '(with sshd)' : '(skipped: no sshd or no ssh on this machine)';

export interface SshServer {
  readonly port: number;
  /** `ssh://USER@HOST:PORT` */
  readonly base: string;
  /** A GIT_SSH_COMMAND that has the right key and knows the host. */
  readonly command: string;
  /** The same with a key that the server does not know. */
  readonly strange: string;
  /** The same for a client that remembers another host key. */
  readonly deceived: string;
  /** The same for a client that has never seen the host. */
  readonly unacquainted: string;
}

const open: (() => void)[] = [];

afterAll(() => {
  for (const close of open.splice(0)) close();
});

/** Starts one. Call it in a hook or a test, where `sshAvailable`. */
export async function sshServer(): Promise<SshServer> {
  if (sshd === undefined) throw new Error('there is no sshd');
  const folder = temporaryFolder();
  const at = (name: string): string => join(folder, name);
  mkdirSync(at('run'), { mode: 0o700 });
  for (const name of ['host', 'other-host', 'key', 'strange'])
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', at(name)]);
  const publicKey = (name: string): string =>
    execFileSync('ssh-keygen', ['-y', '-f', at(name)], { encoding: 'utf8' }).trim();
  writeFileSync(at('authorized'), `${publicKey('key')}\n`, { mode: 0o600 });
  const { host, port } = await freePlace();
  writeFileSync(at('known'), `[${host}]:${port} ${publicKey('host')}\n`);
  writeFileSync(at('remembered'), `[${host}]:${port} ${publicKey('other-host')}\n`);
  writeFileSync(at('nobody'), '');
  writeFileSync(
    at('config'),
    [
      `Port ${port}`,
      `ListenAddress ${host}`,
      `HostKey ${at('host')}`,
      `AuthorizedKeysFile ${at('authorized')}`,
      `PidFile ${at('run/pid')}`,
      'StrictModes no',
      'UsePAM no',
      'PasswordAuthentication no',
      'KbdInteractiveAuthentication no',
      'PermitRootLogin prohibit-password',
      '',
    ].join('\n'),
  );
  // As root it wants the folder that a service would have made for it, for each connection too: it stays, others may use it.
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  const child = spawn(sshd, ['-D', '-e', '-f', at('config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  open.push(() => child.kill());
  for (let i = 0; ; i++) {
    if (await answers(host, port)) break;
    if (child.exitCode !== null || i > 1000) throw new Error(`sshd does not start: ${said}`);
    await sleep(25);
  }
  const client = (key: string, known: string): string =>
    [
      `ssh -F /dev/null -i ${at(key)} -o IdentitiesOnly=yes -o IdentityAgent=none -o UserKnownHostsFile=${at(known)}`,
      '-o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o BatchMode=yes',
    ].join(' ');
  return {
    port,
    base: `ssh://${userInfo().username}@${host}:${port}`,
    command: client('key', 'known'),
    strange: client('strange', 'known'),
    deceived: client('key', 'remembered'),
    unacquainted: client('key', 'nobody'),
  };
}

function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    socket.on('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
    socket.on('close', () => resolve(false));
  });
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
