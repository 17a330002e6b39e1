#ifndef GREET_H
#define GREET_H

/* Writes a greeting for NAME into BUFFER, at most SIZE bytes with the zero at the end; the length it wanted. */
int greet(char *buffer, unsigned long size, const char *name);

#endif
