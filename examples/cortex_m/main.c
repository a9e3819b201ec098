/* Reads frames from frames.bin and writes one record per decision to decisions.bin: the action, the
   Q-values, the number of instructions (32 bits each), and the spikes of all hidden layers. The
   files are on the host (semihosting). See run.py. */

#include <stdio.h>
#include <unistd.h>

#include "agent.h"

extern uint32_t data_stored[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
void initialise_monitor_handles(void);
int main(void);

void reset(void)
{
    uint32_t *from = data_stored, *to;
    for (to = data_start; to < data_end; to++)
        *to = *from++;
    for (to = bss_start; to < bss_end; to++)
        *to = 0;
    initialise_monitor_handles();
    _exit(main());
}

static void fault(void)
{
    _exit(1);
}

/* Initial stack, reset, NMI, and four faults */
__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault};

/* A timer of 24 bits that counts down at the processor's clock */
static volatile uint32_t *const systick = (uint32_t *)0xE000E010;

int main(void)
{
    static uint8_t frames[AGENT_CHANNELS * AGENT_HEIGHT * AGENT_WIDTH];
    FILE *in = fopen("frames.bin", "rb"), *out = fopen("decisions.bin", "wb");
    if (!in || !out)
        return 1;
    systick[1] = 0xFFFFFF; /* value after 0 */
    systick[0] = 5;        /* processor's clock, enabled */
    while (fread(frames, sizeof frames, 1, in)) {
        int32_t action;
        uint32_t start, ticks;
        systick[2] = 0; /* restarts the timer */
        start = systick[2];
        action = agent_decide(frames);
        ticks = (start - systick[2]) & 0xFFFFFF;
        fwrite(&action, sizeof action, 1, out);
        fwrite(agent_q_values(), sizeof(int32_t), AGENT_ACTIONS, out);
        fwrite(&ticks, sizeof ticks, 1, out);
        fwrite(agent_spikes(0), 1, SPIKES, out);
    }
    return fclose(out);
}
