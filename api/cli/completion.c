/* completion.c - scdiva completion bash|zsh|fish: what a shell needs to complete verbs and options,
 * from the same tables that parse them.
 *
 * Threads: main. Owns: nothing. */
#include "api/cli/cli.h"
#include "api/cli/task.h"

#include <stdio.h>
#include <string.h>

static void put_options(const cli_verb *verb, const char *before, const char *between)
{
    cli_task into;
    cli_option table[CLI_MAX_OPTIONS];
    size_t n = verb->options ? verb->options(verb, &into, table) : 0;
    for (size_t i = 0; i < n; i++)
        printf("%s--%s%s", before, table[i].name, between);
    printf("%s--help", before);
}

static void put_verbs(void)
{
    for (size_t i = 0; i < cli_n_verbs; i++)
        printf("%s%s", i ? " " : "", cli_verbs[i].name);
}

/* "list|show [ID]": the parts of a verb that has some, "list show". */
static void put_parts(const cli_verb *verb)
{
    const char *input = verb->input ? verb->input : "";
    if (*input < 'a' || *input > 'z')
        return;
    for (; *input && *input != ' '; input++)
        putchar(*input == '|' ? ' ' : *input);
}

static void bash(void)
{
    fputs("# scdiva completion bash > /etc/bash_completion.d/scdiva\n"
          "_scdiva() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} options= parts=\n"
          "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
          "        COMPREPLY=($(compgen -W '",
          stdout);
    put_verbs();
    fputs(" --help --version' -- \"$word\"))\n"
          "        return\n"
          "    fi\n"
          "    case ${COMP_WORDS[1]} in\n",
          stdout);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        printf("    %s) options='", cli_verbs[i].name);
        put_options(&cli_verbs[i], "", " ");
        fputs("' parts='", stdout);
        put_parts(&cli_verbs[i]);
        fputs("' ;;\n", stdout);
    }
    fputs("    esac\n"
          "    if [ \"$COMP_CWORD\" = 2 ] && [ \"$parts\" ]; then\n"
          "        COMPREPLY=($(compgen -W \"$parts\" -- \"$word\"))\n"
          "        return\n"
          "    fi\n"
          "    case $word in\n"
          "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
          "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
          "    esac\n"
          "}\n"
          "complete -o filenames -F _scdiva scdiva\n",
          stdout);
}

static void zsh(void)
{
    fputs("#compdef scdiva\n"
          "# scdiva completion zsh > \"${fpath[1]}/_scdiva\"\n"
          "_scdiva() {\n"
          "    if (( CURRENT == 2 )); then\n"
          "        compadd ",
          stdout);
    put_verbs();
    fputs(" --help --version\n"
          "        return\n"
          "    fi\n"
          "    case $words[2] in\n",
          stdout);
    for (size_t i = 0; i < cli_n_verbs; i++) {
        printf("    %s) (( CURRENT == 3 )) && compadd -- ", cli_verbs[i].name);
        put_parts(&cli_verbs[i]);
        fputs("\n        [[ $PREFIX = -* ]] && compadd -- ", stdout);
        put_options(&cli_verbs[i], "", " ");
        fputs(" ;;\n", stdout);
    }
    fputs("    esac\n"
          "    [[ $PREFIX = -* ]] || _files\n"
          "}\n"
          "_scdiva \"$@\"\n",
          stdout);
}

/* In single quotes of fish. */
static void put_quoted(const char *text)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
}

static void fish(void)
{
    cli_task into;
    cli_option table[CLI_MAX_OPTIONS];
    puts("# scdiva completion fish > ~/.config/fish/completions/scdiva.fish");
    for (size_t i = 0; i < cli_n_verbs; i++) {
        const cli_verb *v = &cli_verbs[i];
        size_t n = v->options ? v->options(v, &into, table) : 0;
        printf("complete -c scdiva -n __fish_use_subcommand -f -a %s -d '", v->name);
        put_quoted(v->summary);
        puts("'");
        printf("complete -c scdiva -n '__fish_seen_subcommand_from %s' -a '", v->name);
        put_parts(v);
        puts("'");
        for (size_t k = 0; k < n; k++) {
            printf("complete -c scdiva -n '__fish_seen_subcommand_from %s' -l %s", v->name,
                   table[k].name);
            if (table[k].letter)
                printf(" -s %c", table[k].letter);
            printf("%s -d '", table[k].kind == CLI_FLAG ? "" : " -r");
            put_quoted(table[k].help);
            puts("'");
        }
    }
}

int cli_completion(const cli_verb *verb, int argc, char **argv)
{
    const char *shell;
    int status = cli_args_read(verb, NULL, 0, argc, argv, &shell);
    if (status)
        return status < 0 ? CLI_OK : status;
    if (strcmp(shell, "bash") == 0)
        bash();
    else if (strcmp(shell, "zsh") == 0)
        zsh();
    else if (strcmp(shell, "fish") == 0)
        fish();
    else
        return cli_usage(verb, "'%s': bash, zsh and fish are known", shell);
    return fflush(stdout) ? CLI_FAILED : CLI_OK;
}
