/* Plays Pong: reads pairs of screens from stdin, writes actions to stdout, and draws to stderr.
   See play.py. */

#include <stdio.h>

#include "pong.h"

enum { WIDTH = 160, HEIGHT = 210, LINES = 35 }; /* six rows of a screen per line of text */

static uint8_t newest[HEIGHT][WIDTH][3], before[HEIGHT][WIDTH][3];
static uint8_t frames[PONG_CHANNELS * PONG_HEIGHT * PONG_WIDTH];

/* Draws the upper and the lower half of each character in the colors of two pixels. */
static void draw(void)
{
    int line, x;
    fputs("\x1b[H", stderr);
    for (line = 0; line < LINES; line++) {
        for (x = 0; x < WIDTH; x += 2) {
            const uint8_t *top = newest[6 * line][x], *bottom = newest[6 * line + 3][x];
            fprintf(stderr, "\x1b[38;2;%d;%d;%d;48;2;%d;%d;%dm\xe2\x96\x80", top[0], top[1], top[2],
                    bottom[0], bottom[1], bottom[2]);
        }
        fputs("\x1b[0m\n", stderr);
    }
}

int main(int argc, char **argv)
{
    int quiet = argc > 1 && argv[1][0] == 'q';
    while (fread(newest, sizeof newest, 1, stdin) && fread(before, sizeof before, 1, stdin)) {
        int action, i;
        pong_see(&newest[0][0][0], &before[0][0][0], frames);
        action = pong_decide(frames);
        if (!quiet) {
            draw();
            for (i = 0; i < PONG_ACTIONS; i++)
                fprintf(stderr, "%s%9ld", i == action ? " >" : "  ", (long)pong_q_values()[i]);
            fputs("\n", stderr);
        }
        putchar(action);
        fflush(stdout);
    }
    return 0;
}
