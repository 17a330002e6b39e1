/** Addresses of loopback to listen at, for servers that are programs of their own and are told theirs before they start. */
import { randomInt } from 'node:crypto';
import { type AddressInfo, createServer } from 'node:net';

/** All of 127.0.0.0/8 is this machine: two test files do not meet. */
export function freshAddress(): string {
  return `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(1, 255)}`;
}

/** A port that nobody has, at an address that nobody else asks for: it is still free when the server takes it. */
export async function freePlace(): Promise<{ readonly host: string; readonly port: number }> {
  const host = freshAddress();
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.on('error', reject).listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return { host, port };
}
