/** What a program prints, read into the same memory over and over. By a socket, for a named pipe takes a program to make it. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LentChunks } from './lent-chunks.ts';

/** Bytes: xz prints 8 KiB at a time, and each hand-over takes longer than the next print. */
const handedOnFrom = 128 * 1024;

/** Bytes of a socket's path: 108 with the NUL at its end on Linux, 104 elsewhere. Node cuts longer ones off, and they lie in another folder. */
const longestPath = 103;

export interface ProgramOutput {
  /** To be given to the program as its stdout, and destroyed here once it has started. */
  readonly end: Socket;
  /** All that the program prints. A chunk is only good until the next one is asked for. */
  readonly chunks: AsyncIterable<Buffer>;
}

/** Undefined where there is no place for a socket: in a folder for temporary files with a very long name, say. */
export async function openProgramOutput(): Promise<ProgramOutput | undefined> {
  const server = createServer({ pauseOnConnect: true });
  let folder: string | undefined;
  try {
    // Nobody else may look into it, let alone connect.
    folder = await mkdtemp(join(tmpdir(), 'flk-output-'));
    const path = join(folder, 'socket');
    return Buffer.byteLength(path) > longestPath ? undefined : await connected(server, path);
  } catch {
    return undefined;
  } finally {
    server.close();
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  }
}

async function connected(server: Server, path: string): Promise<ProgramOutput> {
  await once(server.listen(path), 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const chunks = new LentChunks({
    least: handedOnFrom,
    resume: () => socket.resume(),
    leave: () => socket.destroy(),
  });
  const socket = connect({
    path,
    onread: {
      buffer: () => chunks.room(),
      callback: (count, buffer) => chunks.take(Buffer.from(buffer.buffer, buffer.byteOffset, count)),
    },
  });
  socket
    .on('error', (error) => chunks.close(error))
    .on('end', () => chunks.close('whole'))
    .on('close', () => chunks.close('whole'));
  await once(socket, 'connect');
  const [end] = await accepted;
  return { end, chunks };
}
