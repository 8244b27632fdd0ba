import sys

from stages.cli.main import main

sys.exit(main())
