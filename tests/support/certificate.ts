/** Certificates of our own, for servers on loopback. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from './temp.ts';

export interface Certificate {
  /** A PEM file; trust this. */
  readonly file: string;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Why none can be made here; undefined where one can. */
export const noCertificate: string | undefined = whyNone();

function whyNone(): string | undefined {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return undefined;
  } catch {
    return 'no openssl program';
  }
}

/** Signed by itself, for an address. */
export function certificateFor(address: string): Certificate {
  const folder = temporaryFolder();
  const [key, file] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')];
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const name = ['-subj', '/CN=a server for tests', '-addext', `subjectAltName=IP:${address}`];
  execFileSync('openssl', ['req', ...kind, '-keyout', key, '-out', file, ...name], { stdio: 'ignore' });
  return { file, cert: readFileSync(file), key: readFileSync(key) };
}
