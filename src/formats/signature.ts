/** Ed25519 keys and signatures as Nix writes them: `NAME:base64`. A name says which key is meant, and proves nothing. */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { FlkError } from '../base/errors.ts';

const seedBytes = 32;
const publicBytes = 32;
const signatureBytes = 64;

/** What stands before the 32 bytes of a key in DER (RFC 8410, section 7). */
const pkcs8Head = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiHead = Buffer.from('302a300506032b6570032100', 'hex');

export interface PublicKey {
  readonly name: string;
  readonly key: KeyObject;
}

export interface SecretKey {
  readonly name: string;
  readonly key: KeyObject;
}

/** Throws FLK_KEY_INVALID, also for a name that could not stand before a colon. */
export function generateSecretKey(name: string): SecretKey {
  if (!isKeyName(name))
    throw new FlkError('FLK_KEY_INVALID', `${JSON.stringify(name.slice(0, 100))} cannot name a key`, {
      facts: { wanted: 'a name without blanks and colons: cache.example.org-1' },
    });
  return { name, key: generateKeyPairSync('ed25519').privateKey };
}

/** A secret key's text, blanks around it aside. Throws FLK_KEY_INVALID, without a word of what the text says. */
export function parseSecretKey(text: string): SecretKey {
  const { name, bytes } = parsePair(text.trim()) ?? {};
  if (name === undefined || bytes?.length !== seedBytes + publicBytes)
    throw new FlkError('FLK_KEY_INVALID', 'this is not a secret key', {
      facts: { wanted: 'NAME:BASE64 with 64 bytes, as flk cache keygen prints it' },
    });
  const key = createPrivateKey({
    key: Buffer.concat([pkcs8Head, bytes.subarray(0, seedBytes)]),
    format: 'der',
    type: 'pkcs8',
  });
  // Who signs with a key whose second half is another one's gives the key away.
  if (!rawPublic(key).equals(bytes.subarray(seedBytes)))
    throw new FlkError('FLK_KEY_INVALID', `the two halves of the secret key ${name} do not belong together`);
  return { name, key };
}

/** Throws FLK_KEY_INVALID. */
export function parsePublicKey(text: string): PublicKey {
  const { name, bytes } = parsePair(text.trim()) ?? {};
  if (name === undefined || bytes?.length !== publicBytes)
    throw new FlkError(
      'FLK_KEY_INVALID',
      bytes?.length === seedBytes + publicBytes
        ? `${name} is a secret key where a public one belongs`
        : `not a public key: ${text.slice(0, 100)}`,
      { facts: { wanted: 'NAME:BASE64 with 32 bytes' } },
    );
  const der = Buffer.concat([spkiHead, bytes]);
  return { name, key: createPublicKey({ key: der, format: 'der', type: 'spki' }) };
}

/** One line, without its end. */
export function printSecretKey({ name, key }: SecretKey): string {
  const seed = key.export({ format: 'der', type: 'pkcs8' }).subarray(pkcs8Head.length);
  return `${name}:${Buffer.concat([seed, rawPublic(key)]).toString('base64')}`;
}

export function printPublicKey({ name, key }: PublicKey): string {
  return `${name}:${rawPublic(key).toString('base64')}`;
}

export function publicKeyOf({ name, key }: SecretKey): PublicKey {
  return { name, key: createPublicKey(key) };
}

/** `NAME:base64`. */
export function signText(text: string, { name, key }: SecretKey): string {
  return `${name}:${sign(null, Buffer.from(text), key).toString('base64')}`;
}

/** Whether one of the keys of the signature's name made it. Two keys may share a name: an old one and its successor. */
export function isSignedBy(text: string, signature: string, keys: readonly PublicKey[]): boolean {
  const { name, bytes } = parsePair(signature) ?? {};
  if (bytes?.length !== signatureBytes) return false;
  return keys.some((key) => key.name === name && verify(null, Buffer.from(text), key.key, bytes));
}

/** Whether a text has the form of a signature, by whatever algorithm. */
export function isSignature(text: string): boolean {
  return (parsePair(text)?.bytes.length ?? 0) > 0;
}

const rawPublic = (key: KeyObject): Buffer =>
  (key.type === 'private' ? createPublicKey(key) : key)
    .export({ format: 'der', type: 'spki' })
    .subarray(spkiHead.length);

const isKeyName = (name: string): boolean => /^[^\s:\p{Cc}]{1,200}$/u.test(name);

function parsePair(text: string): { readonly name: string; readonly bytes: Buffer } | undefined {
  const colon = text.indexOf(':');
  const name = text.slice(0, Math.max(0, colon));
  const digits = text.slice(colon + 1);
  const bytes = Buffer.from(digits, 'base64');
  if (!isKeyName(name) || bytes.toString('base64') !== digits) return undefined;
  return { name, bytes };
}
