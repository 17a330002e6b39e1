/** What went wrong, where something has to. */
import { expect } from 'vitest';
import { FlkError } from '../../src/base/errors.ts';

/** The FlkError that the promise is rejected with. The test fails when it is fulfilled, or rejected with anything else. */
export function errorOf(promise: Promise<unknown>): Promise<FlkError> {
  return promise.then(() => expect.unreachable('nothing was thrown'), flkError);
}

/** As `errorOf`, of work that is done at once. */
export function thrownBy(work: () => unknown): FlkError {
  try {
    work();
  } catch (error) {
    return flkError(error);
  }
  return expect.unreachable('nothing was thrown');
}

/** Equals every error of that code: for `rejects.toEqual` and `toThrowError`. */
export const withCode = (code: string) => expect.objectContaining({ code });

function flkError(error: unknown): FlkError {
  if (error instanceof FlkError) return error;
  throw error;
}
