typedef @WEIGHT@ weight_t;

/* One layer as a convolution; a dense layer has a kernel as large as its input. */
typedef struct {
    int32_t channels, height, width;             /* of the input */
    int32_t out_channels, out_height, out_width; /* of the output */
    int32_t kernel, kernel_width, stride, padding;
    int32_t slots; /* most outputs in a row that an input reaches */
    /* Weights [kernel row][kernel column % stride][input channel][slot][output channel]. An input
       reaches neighboring outputs of a row, whose weights are contiguous. */
    const weight_t *weights;
    const int32_t *biases; /* [output channel], or NULL */
    int32_t threshold;
} layer_t;

@TABLES@
static uint8_t spikes[NEURONS]; /* of the last decision, [y][x][channel] per hidden layer */
static int32_t q_values[@NAME@_ACTIONS];

static int32_t largest(const int32_t *values, int32_t count)
{
    int32_t i, best = 0;
    for (i = 1; i < count; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

static void accumulate(int32_t *sums, const weight_t *weights, int32_t count, int32_t factor)
{
    int32_t i;
    for (i = 0; i < count; i++)
        sums[i] += factor * weights[i];
}

#ifdef @NAME@_DENSE

/* Computes the currents of the neurons at one position of the output. */
static void currents_at(const layer_t *l, const uint8_t *input, int32_t planar, int32_t out_y,
                        int32_t out_x, int32_t *sums)
{
    int32_t i, ky, kx, channel;
    for (i = 0; i < l->out_channels; i++)
        sums[i] = l->biases ? l->biases[i] : 0;
    for (ky = 0; ky < l->kernel; ky++) {
        int32_t y = out_y * l->stride + ky - l->padding;
        if (y < 0 || y >= l->height)
            continue;
        for (kx = 0; kx < l->kernel_width; kx++) {
            int32_t x = out_x * l->stride + kx - l->padding;
            int32_t phase = (ky * l->stride + kx % l->stride) * l->channels;
            int32_t slot = l->slots - 1 - kx / l->stride;
            if (x < 0 || x >= l->width)
                continue;
            for (channel = 0; channel < l->channels; channel++) {
                int32_t at = planar ? (channel * l->height + y) * l->width + x
                                    : (y * l->width + x) * l->channels + channel;
                int32_t first = ((phase + channel) * l->slots + slot) * l->out_channels;
                if (input[at])
                    accumulate(sums, l->weights + first, l->out_channels, input[at]);
            }
        }
    }
}

int @name@_decide(const uint8_t *frames)
{
    static int32_t sums[MOST_CHANNELS];
    const uint8_t *input = frames;
    int32_t i, j, y, x;
    for (i = 0; i < LAYERS - 1; i++) {
        const layer_t *l = &layers[i];
        uint8_t *output = spikes + first_spike[i];
        for (y = 0; y < l->out_height; y++)
            for (x = 0; x < l->out_width; x++) {
                currents_at(l, input, i == 0, y, x, sums);
                for (j = 0; j < l->out_channels; j++)
                    *output++ = sums[j] > l->threshold;
            }
        input = spikes + first_spike[i];
    }
    currents_at(&layers[i], input, i == 0, 0, 0, q_values);
    return (int)largest(q_values, @NAME@_ACTIONS);
}

#else

/* State between decisions */
static uint8_t ready;              /* 0 before the first decision */
static uint8_t seen[PIXELS];       /* frames of the last decision */
static int32_t currents[NEURONS];  /* of all hidden neurons, in the order of the spikes */
static uint8_t touched[POSITIONS]; /* 1 if the currents at a position have changed */

/* Adds the weights of the inputs at one position that have changed to the currents they reach. */
static void scatter(const layer_t *l, int32_t *target, uint8_t *marks, int32_t y, int32_t x,
                    const int32_t *changed, const int32_t *changes, int32_t count)
{
    int32_t top = y + l->padding - l->kernel + l->stride, left = x + l->padding;
    int32_t bottom = (y + l->padding) / l->stride, right = left / l->stride;
    int32_t phase = left % l->stride, slot, size, out_y, i;
    top = top > 0 ? top / l->stride : 0;
    left = left - l->kernel_width + l->stride;
    left = left > 0 ? left / l->stride : 0;
    slot = l->slots - 1 - right + left;
    bottom = bottom < l->out_height ? bottom : l->out_height - 1;
    right = right < l->out_width ? right : l->out_width - 1;
    if (right < left)
        return;
    size = (right - left + 1) * l->out_channels;
    for (out_y = top; out_y <= bottom; out_y++) {
        int32_t ky = y + l->padding - out_y * l->stride;
        int32_t *sums = target + (out_y * l->out_width + left) * l->out_channels;
        const weight_t *row =
            l->weights
            + (((ky * l->stride + phase) * l->channels) * l->slots + slot) * l->out_channels;
        if (marks)
            memset(marks + out_y * l->out_width + left, 1, (size_t)(right - left + 1));
        for (i = 0; i < count; i++) {
            const weight_t *weights = row + changed[i] * l->slots * l->out_channels;
            accumulate(sums, weights, size, changes[i]);
        }
    }
}

static void reset(void)
{
    int32_t i, j;
    memset(seen, 0, sizeof seen);
    memset(spikes, 0, sizeof spikes);
    memset(touched, 1, sizeof touched);
    for (i = 0; i < LAYERS; i++) {
        const layer_t *l = &layers[i];
        int32_t *start = i < LAYERS - 1 ? currents + first_spike[i] : q_values;
        int32_t size = l->out_height * l->out_width * l->out_channels;
        for (j = 0; j < size; j++)
            start[j] = l->biases ? l->biases[j % l->out_channels] : 0;
    }
    ready = 1;
}

/* Adds the pixels that have changed to the currents of the first layer. */
static void see(const uint8_t *frames)
{
    const layer_t *l = &layers[0];
    int32_t *target = LAYERS > 1 ? currents : q_values;
    uint8_t *marks = LAYERS > 1 ? touched : NULL;
    int32_t channel, y, x;
    for (channel = 0; channel < l->channels; channel++)
        for (y = 0; y < l->height; y++) {
            const uint8_t *now = frames + (channel * l->height + y) * l->width;
            uint8_t *before = seen + (channel * l->height + y) * l->width;
            if (memcmp(now, before, (size_t)l->width) == 0)
                continue;
            for (x = 0; x < l->width; x++)
                if (now[x] != before[x]) {
                    int32_t change = (int32_t)now[x] - before[x];
                    scatter(l, target, marks, y, x, &channel, &change, 1);
                }
            memcpy(before, now, (size_t)l->width);
        }
}

int @name@_decide(const uint8_t *frames)
{
    static int32_t changed[MOST_CHANNELS], changes[MOST_CHANNELS];
    int32_t i, j, place;
    if (!ready)
        reset();
    see(frames);
    for (i = 0; i < LAYERS - 1; i++) {
        const layer_t *l = &layers[i];
        int32_t last = i + 2 == LAYERS;
        int32_t *target = last ? q_values : currents + first_spike[i + 1];
        uint8_t *marks = last ? NULL : touched + first_position[i + 1];
        for (place = 0; place < l->out_height * l->out_width; place++) {
            const int32_t *u = currents + first_spike[i] + place * l->out_channels;
            uint8_t *s = spikes + first_spike[i] + place * l->out_channels;
            int32_t count = 0;
            if (!touched[first_position[i] + place])
                continue;
            touched[first_position[i] + place] = 0;
            for (j = 0; j < l->out_channels; j++) {
                changed[count] = j;
                count += (u[j] > l->threshold) != s[j];
            }
            for (j = 0; j < count; j++) {
                uint8_t *spike = s + changed[j];
                *spike ^= 1;
                changes[j] = *spike ? 1 : -1;
            }
            if (count)
                scatter(l + 1, target, marks, place / l->out_width, place % l->out_width, changed,
                        changes, count);
        }
    }
    return (int)largest(q_values, @NAME@_ACTIONS);
}

#endif

const int32_t *@name@_q_values(void)
{
    return q_values;
}

const uint8_t *@name@_spikes(int layer)
{
    return spikes + first_spike[layer];
}
