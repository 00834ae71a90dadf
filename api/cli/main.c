/* main.c - scdiva: what a daemon answers, on files and from a shell.
 *
 * Each verb is one line of the table and one file; main only finds it.
 *
 * Threads: main; those of the engine where a model runs in process. Owns: nothing. */
#include "api/cli/cli.h"
#include "api/confined.h"

#include <stdio.h>
#include <string.h>

const cli_verb cli_verbs[] = {
    {"embed", "write an embedding of every cell of a file", "INPUT", cli_run_task, cli_task_options,
     false},
    {"annotate", "write the type of every cell of a file", "INPUT", cli_run_task, cli_task_options,
     false},
    {"perturb", "write what perturbations do to the control cells of a file", "INPUT", cli_run_task,
     cli_task_options, false},
    {"integrate",
     "write embeddings of a model fine-tuned for integration, tell how batches are mixed", "INPUT",
     cli_run_task, cli_task_options, false},
    {"impute", "write the values that genes have by what else is in each cell", "INPUT",
     cli_run_task, cli_task_options, false},
    {"grn", "write associations of regulators with other genes over the cells of a file", "INPUT",
     cli_run_task, cli_task_options, false},
    {"inspect", "what is in a file, what of it would be used, how much of it maps", "FILE",
     cli_inspect, cli_inspect_options, false},
    {"validate", "read a file from end to end and list what is wrong with it", "FILE", cli_inspect,
     cli_inspect_options, false},
    {"jobs", "what a daemon does with files: see it, wait for it, fetch it, end it",
     "list|show|wait|result|cancel|delete [ID]", cli_jobs, cli_jobs_options, false},
    {"keys", "API keys of a daemon: make one, see those there are, revoke one",
     "make|list|revoke [NAME]", cli_keys, cli_keys_options, false},
    {"models", "what a model directory or a server holds", NULL, cli_models, cli_models_options,
     false},
    {"audit", "is a daemon's audit.jsonl whole and unchanged", "verify FILE", cli_audit,
     cli_audit_options, false},
    {"completion", "print the completion of a shell: bash, zsh or fish", "SHELL", cli_completion,
     NULL, false},
};
const size_t cli_n_verbs = sizeof cli_verbs / sizeof cli_verbs[0];

static void print_help(FILE *to)
{
    fputs("usage: scdiva VERB INPUT [-o OUTPUT] [OPTIONS]\n\n", to);
    for (size_t i = 0; i < cli_n_verbs; i++)
        fprintf(to, "  %-11s %s\n", cli_verbs[i].name, cli_verbs[i].summary);
    fputs("\n  scdiva VERB --help   the options of a verb\n"
          "  scdiva --version\n\n"
          "INPUT is an .h5ad file, 10x Genomics' .h5, a MEX folder, .zip or .tar.gz, a .csv or "
          ".tsv.\n"
          "OUTPUT's suffix says how to write it: .h5ad, .csv, .tsv or .npy.\n\n"
          "    scdiva annotate cells.h5ad -o annotated.h5ad --model models/pbmc\n"
          "    scdiva embed cells.h5 -o embeddings.csv --server http://127.0.0.1:8080\n\n"
          "Exit status: 0 done, 1 failed, 2 used wrongly; of inspect and validate: 0 the file can "
          "be\nused, 1 it is readable but of no use to the model, 2 it cannot be read.\n",
          to);
}

int main(int argc, char **argv)
{
    int status;
    if (scd_confined_main(argc, argv, &status))
        return status;
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return CLI_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("scdiva " SCD_VERSION);
        return CLI_OK;
    }
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!strcmp(argv[1], cli_verbs[i].name))
            return cli_verbs[i].run(&cli_verbs[i], argc - 1, argv + 1);
    fprintf(stderr, "scdiva: no verb '%s'; scdiva --help lists them\n", argv[1]);
    return CLI_USAGE;
}
