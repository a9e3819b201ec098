
/* Area averages from 210 x 160 to 84 x 84: five rows become two, and 40 columns become 21. */

/* Adds a row of the maximum of two screens to `sums`, in grayscale. */
static void add_row(const uint8_t *newest, const uint8_t *before, int32_t weight, int32_t *sums)
{
    static const int32_t parts[3] = {9798, 19235, 3735}; /* red, green, blue */
    int32_t x, color;
    for (x = 0; x < 160; x++) {
        int32_t gray = 1 << 14;
        for (color = 0; color < 3; color++) {
            int32_t now = newest[3 * x + color], then = before[3 * x + color];
            gray += parts[color] * (now > then ? now : then);
        }
        sums[x] += weight * (gray >> 15);
    }
}

/* Averages the columns of a row. */
static void narrow(const int32_t *sums, uint8_t *frame)
{
    int32_t x, out, part, sum = 0, left = 40; /* parts of the pixel that are still missing */
    for (x = 0, out = 0; x < 160; x++) {
        part = left < 21 ? left : 21;
        sum += part * sums[x];
        left -= part;
        if (left == 0) {
            int32_t value = sum / 200, rest = sum % 200;
            frame[out++] = (uint8_t)(value + (rest > 100 || (rest == 100 && value % 2)));
            sum = (21 - part) * sums[x];
            left = 40 - (21 - part);
        }
    }
}

void @name@_see(const uint8_t *newest, const uint8_t *before, uint8_t *frames)
{
    /* Weights of five rows of a screen in the first and in the second row of the frame */
    static const int32_t weights[2][5] = {{2, 2, 1, 0, 0}, {0, 0, 1, 2, 2}};
    const int32_t plane = 84 * 84;
    uint8_t *frame = frames + (@NAME@_CHANNELS - 1) * plane;
    int32_t y, i;
    memmove(frames, frames + plane, (size_t)((@NAME@_CHANNELS - 1) * plane));
    for (y = 0; y < 84; y++) {
        int32_t sums[160] = {0};
        for (i = 0; i < 5; i++) {
            int32_t weight = weights[y % 2][i], at = (y / 2 * 5 + i) * 160 * 3;
            if (weight)
                add_row(newest + at, before + at, weight, sums);
        }
        narrow(sums, frame + y * 84);
    }
}
