#pragma once

void disk(void);
void network(void);
void entropy(void);
void entropyForEver(void);
void virtioConsole(void);
void balloon(void);
