import { describe, expect, test } from 'vitest';
import { asFlkError, errorCodes, FlkError } from '../../../src/base/errors.ts';

describe('FlkError', () => {
  test('never holds a password from a URL, wherever it was put', () => {
    const secret = 'git+https://me:s3cret@host/x';
    const error = new FlkError('FLK_NETWORK', `cannot reach ${secret}`, {
      hint: `open ${secret}`,
      facts: { url: secret },
      trail: [secret],
    });
    expect(JSON.stringify([error.message, error.hint, error.facts, error.trail])).not.toContain('s3cret');
    expect(error.message).toBe('cannot reach git+https://***@host/x');
  });

  test('keeps the git user of an ssh address: it is no secret', () => {
    expect(new FlkError('FLK_NETWORK', 'ssh://git@host/x').message).toBe('ssh://git@host/x');
  });

  test('holds no escape sequence', () => {
    expect(new FlkError('FLK_GIT_REMOTE', 'a\u001b[2Jb\u0007').message).toBe('a\ufffd[2Jb\ufffd');
  });

  test('within adds a step in front of the trail', () => {
    const error = new FlkError('FLK_FOLLOWS_MISSING', 'x', { trail: ['base'] }).within('greet');
    expect(error.trail).toEqual(['greet', 'base']);
    expect(error.code).toBe('FLK_FOLLOWS_MISSING');
  });

  test('a stranger becomes FLK_INTERNAL with status 70', () => {
    const error = asFlkError(new TypeError('x is not a function'));
    expect(error.code).toBe('FLK_INTERNAL');
    expect(error.exitStatus).toBe(70);
  });

  test('every code has an explanation', () => {
    for (const [code, row] of Object.entries(errorCodes)) {
      expect(code).toMatch(/^FLK_[A-Z_]+$/);
      expect(row.explain.length, code).toBeGreaterThan(20);
    }
  });
});
